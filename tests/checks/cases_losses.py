"""What enters a loss."""

import torch
import torch.nn.functional as F
from torch import nn

from checks.planted import Wrapped, fault, near

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])


def head(*after, classes=4):
    return nn.Sequential(nn.Linear(16, classes), *after)


@fault("LOS101", "8x16", "cross_entropy")
def sigmoid_layer():
    return head(nn.Sigmoid())


@fault("LOS101", "2x3x8x8", "cross_entropy")
def nested_pixels():
    return Wrapped(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(dim=1)))


@fault("LOS101", "8x16", lambda y: F.cross_entropy(y.view(8, 4), LABELS))
class ThroughViews(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        return F.softmax(self.linear(x), dim=-1).unsqueeze(1).clamp(min=1e-6)


@fault("LOS101", "8x16", "cross_entropy")
class WrittenOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.Mish(), nn.Linear(64, 4))

    def forward(self, x):
        scores = self.net(x)
        powers = torch.exp(scores - scores.amax(-1, keepdim=True))
        return powers / powers.sum(-1, keepdim=True)


@near("LOS101", "8x16", "cross_entropy")
class OwnAttention(nn.Module):
    """A softmax that is written out, before the layer that makes the scores."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        powers = self.body(x).exp()
        return self.head(x * powers / powers.sum(-1, keepdim=True) * 16)


@near("LOS101", "8x16", "cross_entropy")
class AttentionInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(x * F.softmax(self.score(x), dim=-1))


@near("LOS101", "8x16")
def probabilities_without_a_loss():
    return head(nn.Softmax(dim=-1))


@near("LOS101", "8x16", "nll")
def log_probabilities():
    return head(nn.LogSoftmax(dim=-1))


@fault("LOS102", "8x16", "bce_with_logits")
def sigmoid_module():
    return Wrapped(head(nn.Sigmoid()))


@fault("LOS102", "8x16", "bce_with_logits")
class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 1)

    def forward(self, x):
        return torch.sigmoid(self.linear(x)).squeeze(-1)


@fault("LOS102", "2x3x8x8", lambda y: F.binary_cross_entropy_with_logits(y[:, 0], torch.ones(2, 8, 8)))
class Segmentation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x).softmax(dim=1)


@fault("LOS102", "8x16", "bce_with_logits")
class WrittenOutLogistic(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        return 1 / (1 + torch.exp(-self.linear(x)))


@near("LOS102", "8x16", "bce_with_logits")
def scores():
    return head()


@near("LOS102", "8x16", "bce_with_logits")
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.linear = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        return self.linear(torch.tanh(x)) * torch.sigmoid(self.gate(x))


@near("LOS102", "8x16", lambda y: F.binary_cross_entropy(y, torch.ones(8, 4)))
def probabilities():
    return head(nn.Sigmoid())


@fault("LOS103", "8x16", "nll")
def scores_into_nll():
    return head()


@fault("LOS103", "8x16", lambda y: F.binary_cross_entropy(y, torch.ones(8, 4)))
def scores_into_bce():
    return Wrapped(head())


@fault("LOS103", "8x16", lambda y: F.cross_entropy(y, torch.zeros(8, dtype=torch.long)))
def one_class():
    return head(classes=1)


@fault("LOS103", "8x16", lambda y: F.mse_loss(y, torch.linspace(0, 1, 8)))
def column_against_row():
    return head(classes=1)


@near("LOS103", "8x16", lambda y: F.mse_loss(y.squeeze(-1), torch.linspace(0, 1, 8)))
def squeezed_for_the_loss():
    return head(classes=1)


@near("LOS103", "8x16", lambda y: F.nll_loss(F.logsigmoid(y), LABELS))
def logarithm_of_sigmoids():
    return head()


@near("LOS103", "8x16", lambda y: F.l1_loss(y, torch.linspace(0, 1, 8).unsqueeze(1)))
def columns():
    return head(classes=1)
