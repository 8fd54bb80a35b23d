"""Weights adapted to other classes keep what they know of those they share."""

from __future__ import annotations

import numpy as np
import torch

from condinst.config import DetectConfig
from condinst.finetune import with_classes
from condinst.preprocess import to_batch
from tests.tiny import CLASSES, picture, tiny_model


def test_shared_classes_say_the_same_and_others_begin_anew() -> None:
    model = tiny_model()
    assert model.config.classes == ("plant", "stone", "roof") == CLASSES
    made, taken = with_classes(model, ("roof", "tree", "plant"))
    assert (taken.kept, taken.new, taken.dropped) == (("roof", "plant"), ("tree",), ("stone",))
    x = to_batch([model.prepare(picture(0))], model.config.input, torch.device("cpu"))
    with torch.no_grad():
        old, new = model.dense(x).head, made.eval().dense(x).head
    for before, after in zip(old.logits, new.logits, strict=True):
        assert torch.equal(after[:, 0], before[:, 2])
        assert torch.equal(after[:, 2], before[:, 0])
        assert (after[:, 1].sigmoid() < 0.05).all()  # a class that begins is as rare as focal loss wants it
    for before, after in zip(old.distances, new.distances, strict=True):
        assert torch.equal(before, after)


def test_the_same_classes_change_nothing() -> None:
    model = tiny_model()
    made, taken = with_classes(model, CLASSES)
    assert taken.new == taken.dropped == ()
    config = DetectConfig(candidate_threshold=0.01)
    a, b = (m.predict([picture(1)], config)[0] for m in (model, made.eval()))
    assert len(a) > 0
    np.testing.assert_array_equal(a.scores, b.scores)


def test_settings_by_class_do_not_outlive_their_classes() -> None:
    model = tiny_model()
    detect = DetectConfig(classes=("stone",), class_thresholds=(("stone", 0.5),))
    model.config = model.config.model_copy(update={"detect": detect})
    made, _ = with_classes(model, ("tree",))
    assert made.config.detect.classes is None
    assert made.config.detect.class_thresholds == ()
