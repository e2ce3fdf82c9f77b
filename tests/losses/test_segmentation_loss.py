"""The segmentation loss against MONAI's, in one process; tests/bundles/test_two_processes.py has it in two."""

import torch
from monai.data import MetaTensor
from monai.losses import DiceCELoss

from dcd_components.data.transforms import RegionMasksd
from dcd_components.losses.segmentation import BatchDiceCELoss, RegionDiceBCELoss, region_masks


def test_in_one_process_the_loss_is_monai_s() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 4, (2, 1, 4, 6, 4)).float()  # class 4 is in no patch, class 3 in one alone
    label[1][label[1] == 3] = 0
    settings = {"include_background": False, "to_onehot_y": True, "softmax": True, "batch": True}
    monai = DiceCELoss(**settings, smooth_nr=1e-3, smooth_dr=1e-3)
    values = [loss(logits, label) for loss in (monai, BatchDiceCELoss(smooth=1e-3))]
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])


REGIONS = [[1, 2, 3], [1, 3], [4], [9]]  # label 9 is in no patch


def test_regions_are_binary_each_by_itself() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 4, 6, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 5, (2, 1, 4, 6, 4)).float()
    masks = [torch.stack([label == value for value in values]).any(0) for values in REGIONS]
    truth = torch.cat(masks, 1).double()
    probability = logits.sigmoid()
    terms = []
    for k in range(4):
        p, t = probability[:, k], truth[:, k]
        dice = (2 * (p * t).sum() + 1e-3) / (p.sum() + t.sum() + 1e-3)
        entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
        terms.append(1 - dice + entropy)
    values = [torch.stack(terms).mean(), RegionDiceBCELoss(REGIONS, smooth=1e-3)(logits, label)]
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_masks_of_regions_may_overlap() -> None:
    label = torch.tensor([0, 1, 2, 3, 4]).view(1, 1, 1, 5)
    expected = [[0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5]
    assert region_masks(label, REGIONS).view(4, 5).tolist() == expected
    item = RegionMasksd("label", REGIONS)({"label": MetaTensor(label), "case": "one"})
    assert item["label"].shape == (4, 1, 1, 5)
    assert item["label"].flatten(1).tolist() == expected
    assert item["case"] == "one"
