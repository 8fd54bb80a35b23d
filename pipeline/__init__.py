"""From URIs to tables: stores, manifests, decoding, workers, the ledger, the engine, reading."""
