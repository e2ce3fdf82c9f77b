"""The segmentation loss against MONAI's, in one process; tests/bundles/test_two_processes.py has it in two."""

import torch
from monai.losses import DiceCELoss

from dcd_components.losses.segmentation import BatchDiceCELoss


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
