"""Key layouts: what AdelaiDet, mmdetection, detectron2 and torchvision call the weights that we have."""

from __future__ import annotations

import re

_NORM = r"(weight|bias|running_mean|running_var)"
_WB = r"(weight|bias)"

# (pattern of the other project's key, our key); {g+n} and {g-n} shift the number in group g.
_ADELAIDET = [
    (r"backbone\.bottom_up\.stem\.conv1\.weight", r"backbone.stem.conv.weight"),
    (rf"backbone\.bottom_up\.stem\.conv1\.norm\.{_NORM}", r"backbone.stem.norm.\1"),
    (
        rf"backbone\.bottom_up\.res(\d)\.(\d+)\.(conv\d|shortcut)\.norm\.{_NORM}",
        r"backbone.stages.{1-2}.\2.\3.norm.\4",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.(conv\d|shortcut)\.weight",
        r"backbone.stages.{1-2}.\2.\3.conv.weight",
    ),
    (rf"backbone\.fpn_(lateral|output)(\d)\.{_WB}", r"fpn.\1.{2-3}.\3"),
    (rf"backbone\.top_block\.(p6|p7)\.{_WB}", r"fpn.\1.\2"),
    (rf"proposal_generator\.fcos_head\.cls_tower\.(\d+)\.{_WB}", r"head.class_tower.\1.\2"),
    (rf"proposal_generator\.fcos_head\.bbox_tower\.(\d+)\.{_WB}", r"head.box_tower.\1.\2"),
    (rf"proposal_generator\.fcos_head\.cls_logits\.{_WB}", r"head.logits.\1"),
    (rf"proposal_generator\.fcos_head\.bbox_pred\.{_WB}", r"head.distances.\1"),
    (rf"proposal_generator\.fcos_head\.ctrness\.{_WB}", r"head.quality.\1"),
    (r"proposal_generator\.fcos_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    (rf"controller\.{_WB}", r"head.controller.\1"),
    (r"mask_branch\.(refine|tower)\.(\d)\.0\.weight", r"mask_branch.\1.\2.conv.weight"),
    (rf"mask_branch\.(refine|tower)\.(\d)\.1\.{_NORM}", r"mask_branch.\1.\2.norm.\3"),
    (rf"mask_branch\.tower\.\d+\.{_WB}", r"mask_branch.features.\1"),
    (r"mask_branch\.seg_head\.(\d)\.0\.weight", r"mask_branch.semantic.\1.conv.weight"),
    (rf"mask_branch\.seg_head\.(\d)\.1\.{_NORM}", r"mask_branch.semantic.\1.norm.\2"),
    (rf"mask_branch\.logits\.{_WB}", r"mask_branch.semantic_logits.\1"),
]
_MMDETECTION = [
    (r"backbone\.conv1\.weight", r"backbone.stem.conv.weight"),
    (rf"backbone\.bn1\.{_NORM}", r"backbone.stem.norm.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.(conv\d)\.weight", r"backbone.stages.{1-1}.\2.\3.conv.weight"),
    (rf"backbone\.layer(\d)\.(\d+)\.bn(\d)\.{_NORM}", r"backbone.stages.{1-1}.\2.conv\3.norm.\4"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.weight", r"backbone.stages.{1-1}.\2.shortcut.conv.weight"),
    (rf"backbone\.layer(\d)\.(\d+)\.downsample\.1\.{_NORM}", r"backbone.stages.{1-1}.\2.shortcut.norm.\3"),
    (rf"neck\.lateral_convs\.(\d)\.conv\.{_WB}", r"fpn.lateral.\1.\2"),
    (rf"neck\.fpn_convs\.([0-2])\.conv\.{_WB}", r"fpn.output.\1.\2"),
    (rf"neck\.fpn_convs\.3\.conv\.{_WB}", r"fpn.p6.\1"),
    (rf"neck\.fpn_convs\.4\.conv\.{_WB}", r"fpn.p7.\1"),
    (rf"bbox_head\.cls_convs\.(\d)\.conv\.{_WB}", r"head.class_tower.{1*3}.\2"),
    (rf"bbox_head\.cls_convs\.(\d)\.gn\.{_WB}", r"head.class_tower.{1*3+1}.\2"),
    (rf"bbox_head\.reg_convs\.(\d)\.conv\.{_WB}", r"head.box_tower.{1*3}.\2"),
    (rf"bbox_head\.reg_convs\.(\d)\.gn\.{_WB}", r"head.box_tower.{1*3+1}.\2"),
    (rf"bbox_head\.conv_cls\.{_WB}", r"head.logits.\1"),
    (rf"bbox_head\.conv_reg\.{_WB}", r"head.distances.\1"),
    (rf"bbox_head\.conv_centerness\.{_WB}", r"head.quality.\1"),
    (r"bbox_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    (rf"bbox_head\.controller\.{_WB}", r"head.controller.\1"),
    (
        r"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv\d\.conv\.weight",
        r"mask_branch.refine.\1.conv.weight",
    ),
    (
        rf"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv\d\.bn\.{_NORM}",
        r"mask_branch.refine.\1.norm.\2",
    ),
    (r"mask_head\.mask_feature_head\.conv_branch\.(\d)\.conv\.weight", r"mask_branch.tower.\1.conv.weight"),
    (rf"mask_head\.mask_feature_head\.conv_branch\.(\d)\.bn\.{_NORM}", r"mask_branch.tower.\1.norm.\2"),
    (rf"mask_head\.mask_feature_head\.conv_pred\.{_WB}", r"mask_branch.features.\1"),
]
_BARE = ("backbone.", "backbone.bottom_up.")
_CLASSIFIER = re.compile(r"(stem\.|head\.)?(fc|fc1000|linear)\.(weight|bias)")
_NO_WEIGHTS = re.compile(r".*num_batches_tracked|mask_head\.(sizes_of_interest|_iter)|pixel_(mean|std)")
UNSUPPORTED = {
    "BiFPN": re.compile(r".*bifpn", re.IGNORECASE),
    "deformable convolution": re.compile(r".*(conv\d_offset|offset_mask|\.conv_offset|dcn)", re.IGNORECASE),
    "vision transformer backbone": re.compile(r".*(attn|relative_position)", re.IGNORECASE),
}
"""Parts that a checkpoint may need and we lack, by the keys that betray them."""


def our_key(key: str) -> str | None:
    """Our name of a weight of either project; None for one without a place here."""
    for pattern, template in _ADELAIDET + _MMDETECTION:
        if match := re.fullmatch(pattern, key):
            return _expand(match, template)
    return None


def _expand(match: re.Match[str], template: str) -> str:
    """Fill \\g and {g-n}, {g*m}, {g*m+n} (group g, shifted or scaled) of a template."""

    def number(m: re.Match[str]) -> str:
        times, plus = int(m[2] or 1), int(m[3] or 0)
        return str(int(match[int(m[1])]) * times + plus)

    return match.expand(re.sub(r"\{(\d)(?:\*(\d+))?([+-]\d+)?\}", number, template))


def our_backbone_key(key: str) -> str | None:
    """Our name of a backbone's weight, also where the file is the backbone alone and has no prefix.

    Bare keys are torchvision's (`layer1.0.conv1.weight`) or detectron2's (`res2.0.conv1.weight`).
    """
    for prefix in ("", *_BARE):
        name = our_key(prefix + key)
        if name is not None and name.startswith("backbone."):
            return name
    return None


def holds_no_weights(key: str) -> bool:
    """Whether a key is known and means nothing to the model: counters, constants."""
    return _NO_WEIGHTS.fullmatch(key) is not None


def is_classifier(key: str) -> bool:
    """Whether a key belongs to the ImageNet classifier on top of a backbone."""
    return _CLASSIFIER.fullmatch(key) is not None


def is_detectron2_backbone(key: str) -> bool:
    """Whether a key shows detectron2's naming of a ResNet, rather than torchvision's."""
    return re.search(r"(^|\.)(stem\.conv1|res[2-5]\.\d+)\.", key) is not None
