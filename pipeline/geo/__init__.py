"""Rasters and the map: windows of rasters of any size, their pixels, and instances in ground coordinates."""
