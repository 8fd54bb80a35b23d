"""Candidates and non-maximum suppression."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst.config import DetectConfig
from condinst.detect import box_iou, clip_boxes, detect, edges, nms, top
from condinst.head import HeadOutput, locations


def brute_force(boxes: torch.Tensor, classes: torch.Tensor, iou: float) -> list[int]:
    kept: list[int] = []
    worse = ((box_iou(boxes, boxes) > iou) & (classes[:, None] == classes[None, :])).numpy()
    for i in range(len(boxes)):
        if not worse[i, kept].any():
            kept.append(i)
    return kept


def random_boxes(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (count, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + random.uniform(0, 30, (count, 2))], 1)).float()
    return boxes, torch.from_numpy(random.integers(0, 3, count))


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 700),
    iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    limit=st.sampled_from([1, 7, 10_000]),
)
@settings(max_examples=40, deadline=None)
def test_nms_is_the_greedy_rule(seed: int, count: int, iou: float, limit: int) -> None:
    boxes, classes = random_boxes(seed, count)
    assert nms(boxes, classes, iou, limit).tolist() == brute_force(boxes, classes, iou)[:limit]


@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(0, 700), min_size=1, max_size=4),
    limit=st.sampled_from([1, 40, 10_000]),
)
@settings(max_examples=15)
def test_nms_of_a_batch_is_that_of_each_image(seed: int, counts: list[int], limit: int) -> None:
    total = sum(counts)
    boxes, classes = random_boxes(seed, total)
    image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    alone, first = [], 0
    for count in counts:
        own = slice(first, first + count)
        alone += [first + n for n in nms(boxes[own], classes[own], 0.3, limit).tolist()]
        first += count
    assert nms(boxes, classes, 0.3, limit, image).tolist() == alone


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 4),
    config=st.builds(
        DetectConfig,
        pre_nms_top_k=st.sampled_from([1, 9, 1000]),
        max_instances=st.sampled_from([1, 20, 1000]),
        rank_on=st.sampled_from(["product", "class"]),
        clip_before_nms=st.booleans(),
    ),
)
@settings(max_examples=30)
def test_a_batch_has_what_each_of_its_images_has_alone(seed: int, images: int, config: DetectConfig) -> None:
    generator = torch.Generator().manual_seed(seed)
    grids = [(h, w) for h, w in [(8, 10), (4, 5), (2, 3), (1, 2), (1, 1)]]

    def maps(channels: int) -> list[torch.Tensor]:
        return [torch.randn(images, channels, h, w, generator=generator) * 3 for h, w in grids]

    output = HeadOutput(maps(3), [x.abs() for x in maps(4)], maps(1), maps(8))
    sizes = [(64 - n, 80 - 3 * n) for n in range(images)]
    together = detect(output, sizes, config)
    assert together.image.tolist() == sorted(together.image.tolist())
    for n, size in enumerate(sizes):
        alone = detect(
            HeadOutput(*([x[n : n + 1] for x in part] for part in vars(output).values())), [size], config
        )
        own = together.select(together.image == n)
        for name, value in vars(alone).items():
            if name == "scores":  # a sigmoid's last bit hangs on which of a vector's places a value is in
                torch.testing.assert_close(value, own.scores, rtol=1e-6, atol=0)
            else:
                assert name == "image" or torch.equal(value, getattr(own, name))


def head_output(logits: dict[tuple[int, int, int], float], classes: int = 2) -> HeadOutput:
    """A head over 64x64 pixels that is sure of nothing but the given (level, index, class): logit."""
    out = HeadOutput([], [], [], [])
    for level in range(5):
        edge = max(1, 64 // (8 * 2**level))
        maps = torch.full((1, classes, edge, edge), -20.0)
        for (lv, index, c), value in logits.items():
            if lv == level:
                maps[0, c, index // edge, index % edge] = value
        out.logits.append(maps)
        out.distances.append(torch.ones(1, 4, edge, edge))
        out.quality.append(torch.full((1, 1, edge, edge), 20.0))
        out.tower.append(torch.zeros(1, 8, edge, edge))
    return out


def test_equal_scores_are_ordered_by_level_location_class() -> None:
    places = [(1, 5, 1), (0, 60, 0), (0, 3, 1), (0, 3, 0), (1, 5, 0)]
    found = detect(head_output(dict.fromkeys(places, 1.0)), [(64, 64)], DetectConfig())
    order = list(zip(found.level.tolist(), found.index.tolist(), found.classes.tolist(), strict=True))
    assert order == sorted(places)


def test_boxes_come_from_locations_and_strides() -> None:
    found = detect(head_output({(1, 5, 0): 3.0}), [(64, 64)], DetectConfig())
    assert found.positions.tolist() == [[24.0, 24.0]]
    assert found.boxes.tolist() == [[8.0, 8.0, 40.0, 40.0]]
    assert torch.equal(locations(4, 4, 16)[5], found.positions[0])


def test_limits_are_settings() -> None:
    output = head_output({(0, n, 0): float(n) / 10 for n in range(64)})
    config = DetectConfig(nms_iou=1.0, pre_nms_top_k=40, max_instances=150)
    assert len(detect(output, [(64, 64)], config)) == 40
    top = detect(output, [(64, 64)], config.model_copy(update={"max_instances": 5}))
    assert top.index.tolist() == [63, 62, 61, 60, 59]
    assert len(detect(output, [(64, 64)], DetectConfig(score_threshold=1.0))) == 0


def test_clip_boxes() -> None:
    boxes = torch.tensor([[-5.0, -1, 70, 20], [10, 10, 20, 99]])
    assert clip_boxes(boxes, edges(boxes, [(30, 60)])).tolist() == [[0, 0, 60, 20], [10, 10, 20, 30]]


def test_the_papers_threshold_is_on_candidates_and_the_jobs_on_scores() -> None:
    output = head_output({(0, n, 0): float(n) / 8 - 3 for n in range(64)})  # the quality is sure
    every = DetectConfig(candidate_threshold=0.0, nms_iou=1.0, max_instances=1000)
    scores = detect(output, [(64, 64)], every).scores
    probability = scores.square()
    papers = detect(output, [(64, 64)], every.model_copy(update={"candidate_threshold": 0.3})).scores
    assert torch.equal(papers, scores[probability > 0.3])
    ours = detect(output, [(64, 64)], every.model_copy(update={"score_threshold": 0.3})).scores
    assert torch.equal(ours, scores[scores > 0.3])
    assert len(ours) > len(papers) > 0


@given(
    ranks=st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), max_size=9), min_size=1, max_size=4),
    count=st.integers(1, 10),
)
def test_the_best_of_each_image_are_chosen_and_of_equal_ones_the_first(
    ranks: list[list[float]], count: int
) -> None:
    image = torch.tensor([n for n, own in enumerate(ranks) for _ in own], dtype=torch.int64)
    kept = top(image, len(ranks), torch.tensor([r for own in ranks for r in own]), count)
    for number, own in enumerate(ranks):
        best = sorted(range(len(own)), key=lambda at: (-own[at], at))[:count]
        assert kept[image == number].nonzero().squeeze(1).tolist() == sorted(best)
