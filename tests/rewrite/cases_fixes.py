"""Sources, and what fixing one code makes of them: (code, before, after); lines begin at the class body's statements."""

HEAD = """# a file with a head
import torch
import torch.nn.functional as F
from torch import nn

INPUT = "{shape}"


class Model(nn.Module):
    '''A model.'''

"""


def case(name, code, shape, before, after, loss=None):
    head = HEAD.format(shape=shape)
    head = head.replace("\n\n\nclass", f'\nLOSS = "{loss}"\n\n\nclass') if loss else head
    return name, code, head + before.strip("\n") + "\n", head + after.strip("\n") + "\n"


CASES = [
    case(
        "nested containers, comments, appends",
        "REG101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        # one pair a step
        self.pairs = [
            [nn.Linear(16, 16), nn.Tanh()],  # the first
            (nn.Linear(16, 16), nn.Tanh()),
        ]  # all of them
        self.pairs.append([nn.Linear(16, 16), nn.Tanh()])
        self.numbers = [1, 2, 3]

    def forward(self, x):
        for linear, act in self.pairs:
            x = act(linear(x))
        return x
""",
        """
    def __init__(self):
        super().__init__()
        # one pair a step
        self.pairs = nn.ModuleList([
            nn.ModuleList([nn.Linear(16, 16), nn.Tanh()]),  # the first
            nn.ModuleList((nn.Linear(16, 16), nn.Tanh())),
        ])  # all of them
        self.pairs.append(nn.ModuleList([nn.Linear(16, 16), nn.Tanh()]))
        self.numbers = [1, 2, 3]

    def forward(self, x):
        for linear, act in self.pairs:
            x = act(linear(x))
        return x
""",
    ),
    case(
        "dict of lists, annotated",
        "REG101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.stages: dict[str, list[nn.Module]] = {"a": [nn.Linear(16, 16)], "b": [nn.Linear(16, 8) for _ in range(2)]}

    def forward(self, x):
        x = self.stages["a"][0](x).relu()
        return sum(layer(x) for layer in self.stages["b"])
""",
        """
    def __init__(self):
        super().__init__()
        self.stages: nn.ModuleDict = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(16, 16)]), "b": nn.ModuleList([nn.Linear(16, 8) for _ in range(2)])})

    def forward(self, x):
        x = self.stages["a"][0](x).relu()
        return sum(layer(x) for layer in self.stages["b"])
""",
    ),
    case(
        "a tuple without parentheses",
        "REG101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.two = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x):
        one, two = self.two
        return two(one(x).relu())
""",
        """
    def __init__(self):
        super().__init__()
        self.two = nn.ModuleList((nn.Linear(16, 16), nn.Linear(16, 2)))

    def forward(self, x):
        one, two = self.two
        return two(one(x).relu())
""",
    ),
    case(
        "a local list",
        "REG101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        layers = []
        for _ in range(3):
            layers.append(nn.Linear(16, 16))
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
""",
        """
    def __init__(self):
        super().__init__()
        layers = []
        for _ in range(3):
            layers.append(nn.Linear(16, 16))
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x
""",
    ),
    case(
        "a tensor made to require a gradient",
        "REG102",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.scale = torch.full((16,), 2.0).requires_grad_()  # learned
        self.shifts = [torch.zeros(16, requires_grad=True), torch.ones(16, requires_grad=True)]

    def forward(self, x):
        return self.linear(x) * self.scale + self.shifts[0] * self.shifts[1]
""",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.full((16,), 2.0))  # learned
        self.shifts = nn.ParameterList([torch.zeros(16, requires_grad=True), torch.ones(16, requires_grad=True)])

    def forward(self, x):
        return self.linear(x) * self.scale + self.shifts[0] * self.shifts[1]
""",
    ),
    case(
        "constants, one annotated, one over several lines",
        "REG103",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        # fixed
        self.shift: torch.Tensor = torch.linspace(-1, 1, 16)  # not learned
        self.scale = torch.tensor(
            [1.0, 2.0] * 8,  # alternating
        )

    def forward(self, x):
        return self.linear(x * self.scale + self.shift)
""",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        # fixed
        self.shift: torch.Tensor
        self.register_buffer("shift", torch.linspace(-1, 1, 16), persistent=False)  # not learned
        self.register_buffer("scale", torch.tensor(
            [1.0, 2.0] * 8,  # alternating
        ), persistent=False)

    def forward(self, x):
        return self.linear(x * self.scale + self.shift)
""",
    ),
    case(
        "layers made in the forward pass",
        "REG104",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.width = 16
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        head = nn.Linear(self.width, 2, bias=False)  # new each time
        x = nn.Dropout(0.1)(self.linear(x).relu())
        return head(x)
""",
        """
    def __init__(self):
        super().__init__()
        self.width = 16
        self.linear = nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(self.width, 2, bias=False)

    def forward(self, x):
        head = self.head  # new each time
        x = self.dropout(self.linear(x).relu())
        return head(x)
""",
    ),
    case(
        "one layer many times, in a Sequential",
        "REG105",
        "4x16",
        """
    def __init__(self, depth=3):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(16, 16)] * depth, nn.Tanh())
        self.sizes = [16] * 3

    def forward(self, x):
        return self.layers(x)
""",
        """
    def __init__(self, depth=3):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(16, 16) for _ in range(depth)], nn.Tanh())
        self.sizes = [16] * 3

    def forward(self, x):
        return self.layers(x)
""",
    ),
    case(
        "classes called as functions, options kept",
        "MOD102",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.act = nn.ReLU(True)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        x = nn.Dropout(nn.GELU(self.first(x)), 0.1)
        x = self.act(x)
        x = nn.LeakyReLU()(x)
        return nn.Softmax(
            self.second(x),
            dim=-1,  # over the classes
        )
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.act = nn.ReLU(True)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        x = F.dropout(F.gelu(self.first(x)), 0.1, training=self.training)
        x = self.act(x)
        x = nn.LeakyReLU()(x)
        return F.softmax(
            self.second(x),
            dim=-1,  # over the classes
        )
""",
    ),
    case(
        "dropout that follows the mode, over several lines",
        "MOD101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 2)

    def forward(self, x):
        x = F.dropout(
            self.first(x),
            p=0.2,  # rate
        )
        x = F.dropout(x, 0.1, training=self.training)
        return self.second(x)
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 2)

    def forward(self, x):
        x = F.dropout(
            self.first(x),
            p=0.2,  # rate
            training=self.training,
        )
        x = F.dropout(x, 0.1, training=self.training)
        return self.second(x)
""",
    ),
    case(
        "dropout of an attention",
        "MOD101",
        "4x6x16",
        """
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)
""",
        """
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
""",
    ),
    case(
        "biases before norms only",
        "NRM101",
        "4x3x8x8",
        """
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.conv = nn.Conv2d(
            8, 8, 3,
            padding=1,
            bias=True,  # not needed
        )
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.last(self.norm(self.conv(self.stem(x))).relu())
""",
        """
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.conv = nn.Conv2d(
            8, 8, 3,
            padding=1,
            bias=False,  # not needed
        )
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.last(self.norm(self.conv(self.stem(x))).relu())
""",
    ),
    case(
        "operations in place that corrupt a skip",
        "RES101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.safe = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.first(x)
        y = x
        y.tanh_()  # the skip sees it too
        y = self.second(y)
        y = self.safe(y)
        return x + y
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.safe = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.first(x)
        y = x
        y = y.tanh()  # the skip sees it too
        y = self.second(y)
        y = self.safe(y)
        return x + y
""",
    ),
    case(
        "a kernel by name, made in a helper",
        "SHP101",
        "4x8x16x16",
        """
    def __init__(self):
        super().__init__()

        def conv(k):
            return nn.Conv2d(8, 8, k)

        self.narrow, self.wide = conv(1), conv(3)

    def forward(self, x):
        y = self.wide(x)
        return self.narrow(x) + y
""",
        """
    def __init__(self):
        super().__init__()

        def conv(k):
            return nn.Conv2d(8, 8, k, padding=k // 2)

        self.narrow, self.wide = conv(1), conv(3)

    def forward(self, x):
        y = self.wide(x)
        return self.narrow(x) + y
""",
    ),
    case(
        "a dropout on a line of its own, before a norm",
        "NRM103",
        "32x64",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.drop(x)
        x = self.norm(self.second(x))  # normalised
        return self.last(x.relu())
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        x = self.first(x).relu()
        x = self.drop(self.norm(self.second(x)))  # normalised
        return self.last(x.relu())
""",
    ),
    case(
        "a functional dropout, nested in the activation",
        "ACT102",
        "16x64",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        return self.last(torch.sigmoid(F.dropout(self.first(x), 0.5, self.training)))
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.last = nn.Linear(64, 4)

    def forward(self, x):
        return self.last(F.dropout(torch.sigmoid(self.first(x)), 0.5, self.training))
""",
    ),
    case(
        "elements of a Sequential over several lines",
        "NRM103",
        "32x64",
        """
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(0.5),  # first
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),  # last
        )

    def forward(self, x):
        return self.body(x)
""",
        """
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),  # last
            nn.Dropout(0.5),  # first
        )

    def forward(self, x):
        return self.body(x)
""",
    ),
    case(
        "a second ReLU as a method",
        "ACT103",
        "8x16",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.second(x.relu())  # twice
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.second(x)  # twice
""",
    ),
    case(
        "one layer by name, in a comprehension",
        "REG105",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        layer = nn.Linear(16, 16)
        self.layers = nn.ModuleList([layer for _ in range(3)])  # three

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x
""",
        """
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])  # three

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x
""",
    ),
    case(
        "two layers made on one line",
        "REG104",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return nn.Linear(8, 2)(nn.Linear(16, 8)(self.linear(x)).relu())
""",
        """
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.linear2 = nn.Linear(8, 2)
        self.linear3 = nn.Linear(16, 8)

    def forward(self, x):
        return self.linear2(self.linear3(self.linear(x)).relu())
""",
    ),
    case(
        "a scale by the width of the model",
        "ATT102",
        "4x12x64",
        """
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(64, 192)
        self.out = nn.Linear(64, 64)

    def forward(self, x):
        q, k, v = self.qkv(x).view(4, 12, 3, 4, 16).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / 64**0.5  # scaled
        y = scores.softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(4, 12, 64))
""",
        """
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(64, 192)
        self.out = nn.Linear(64, 64)

    def forward(self, x):
        q, k, v = self.qkv(x).view(4, 12, 3, 4, 16).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # scaled
        y = scores.softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(4, 12, 64))
""",
    ),
    case(
        "a sum in place, and a function in place",
        "RES101",
        "4x16",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x):
        x = self.first(x)
        y = x
        y *= 2.0 if True else 1.0
        y = F.silu(y, inplace=True)
        return x + self.second(y)
""",
        """
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x):
        x = self.first(x)
        y = x
        y = y * (2.0 if True else 1.0)
        y = F.silu(y, inplace=False)
        return x + self.second(y)
""",
    ),
    case(
        "a softmax at the end of a Sequential",
        "LOS101",
        "8x16",
        """
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 16),
            nn.Linear(16, 4),  # scores
            nn.Softmax(dim=1),  # probabilities
        )

    def forward(self, x):
        return self.body(x)
""",
        """
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 16),
            nn.Linear(16, 4),  # scores
        )

    def forward(self, x):
        return self.body(x)
""",
        loss="cross_entropy",
    ),
    case(
        "a softmax on a line of its own",
        "LOS101",
        "8x16",
        """
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.head(x)
        x = x.softmax(dim=-1)
        return x
""",
        """
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.head(x)
        return x
""",
        loss="cross_entropy",
    ),
    case(
        "a sigmoid of a sum",
        "LOS102",
        "8x16",
        """
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        return torch.sigmoid(self.one(x) + self.two(x)).flatten(1)
""",
        """
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x):
        return (self.one(x) + self.two(x)).flatten(1)
""",
        loss="bce_with_logits",
    ),
]
