"""The networks that channel pruning is held against: 26 kinds of architecture, each small enough for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw


class LeNet(nn.Module):
    """Convolutions, pooling, and a flattened map before the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5), nn.Conv2d(8, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×1×28×28 to N×10."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        found: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return found


class UNet(nn.Module):
    """Down and up again, with concatenated skips and a transposed convolution."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

        self.down1, self.down2, self.middle = block(3, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up2, self.up1 = (
            nn.ConvTranspose2d(4 * width, 2 * width, 2, 2),
            nn.ConvTranspose2d(2 * width, width, 2, 2),
        )
        self.join2, self.join1, self.head = block(4 * width, 2 * width), block(2 * width, width), nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to N×2×H×W, H and W multiples of 4."""
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.join2(torch.cat([two, self.up2(x)], 1))
        found: Tensor = self.head(self.join1(torch.cat([one, self.up1(x)], 1)))
        return found


class CifarBlock(nn.Module):
    """A residual block whose shortcut is padded by a number of channels that stands in the code."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.stride, self.pad = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map N×before×H×W to N×after×H/stride×W/stride."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.pad, self.pad)))


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10 (He et al. 2016, arXiv 1512.03385, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths, blocks = [16, 16, 16, 32, 32, 32, 64, 64, 64], []
        for before, after in zip([16, *widths], widths, strict=False):
            blocks.append(CifarBlock(before, after, 1 if before == after else 2))
        self.blocks, self.fc = nn.Sequential(*blocks), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×32×32 to N×10."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        found: Tensor = self.fc(x.mean((2, 3)))
        return found


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, and a classifier of its last state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], layers: int = 1, both: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 24)
        self.rnn = kind(24, 32, num_layers=layers, bidirectional=both, batch_first=True)
        self.head = nn.Linear(64 if both else 32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map N×T tokens to N×5."""
        states, _ = self.rnn(self.embed(tokens))
        found: Tensor = self.head(states[:, -1])
        return found


class Shuffle(nn.Module):
    """A channel split, a branch, and a channel shuffle (ShuffleNetV2, arXiv 1807.11164)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        half = width // 2
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 10)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU()),
                *(nn.Conv2d(half, half, 3, padding=1, groups=half), nn.BatchNorm2d(half)),
                *(nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU()),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to N×10."""
        x = F.relu(self.stem(x))
        for branch in self.branches:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, branch(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class SuperResolution(nn.Module):
    """Convolutions, and a pixel shuffle in the middle and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.three, self.four = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to N×3×4H×4W."""
        x = F.pixel_shuffle(F.relu(self.two(F.relu(self.one(x)))), 2)
        return F.pixel_shuffle(self.four(F.relu(self.three(x))), 2)


class GroupNormNet(nn.Module):
    """Group norms, and a grouped convolution between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(8, 32)
        self.grouped, self.norm2 = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.GroupNorm(8, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to N×10."""
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(self.norm2(self.grouped(x)))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Tied(nn.Module):
    """A language model whose output layer is its embedding, with an MLP that may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(50, 16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map N×T tokens to N×T×50."""
        x = self.embed(tokens)
        found: Tensor = self.head(x + self.down(F.relu(self.up(x))))
        return found


class Highway(nn.Module):
    """Gated linear units: one layer makes values and gates, which a split tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(20, 64), nn.Linear(32, 64), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×20 to N×10."""
        found: Tensor = self.head(F.glu(self.two(F.glu(self.one(x)))))
        return found


class EncoderClassifier(nn.Module):
    """PyTorch's own transformer encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map N×T tokens to N×5."""
        found: Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return found


def _timm(name: str) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(name, pretrained=False, num_classes=10)
    return made


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    )


def llama(layers: int = 2) -> nn.Module:
    """Return a small Llama: rotary positions, RMS norms, two query heads to every key head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=200,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            use_cache=False,
        )
    )


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_positions=64, use_cache=False))


def _image(size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size)


def _tokens(most: int = 100) -> Tensor:
    return torch.randint(0, most, (2, 12))


ZOO: Final[dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]]] = {
    "demo": (sw.demo.model, lambda: torch.rand(2, 1, 8, 8)),
    "ResNet-20, padded shortcuts": (ResNet20, lambda: _image(32)),
    "LeNet": (LeNet, lambda: _image(28, 1)),
    "U-Net": (UNet, lambda: _image(32)),
    "ResNet-50": (lambda: _timm("resnet50"), _image),
    "MobileNetV2": (lambda: _timm("mobilenetv2_100"), _image),
    "MobileNetV3": (lambda: _timm("mobilenetv3_large_100"), _image),
    "EfficientNet-B0": (lambda: _timm("efficientnet_b0"), _image),
    "RegNetY-200MF": (lambda: _timm("regnety_002"), _image),
    "DenseNet-121": (lambda: _timm("densenet121"), _image),
    "ConvNeXt-T": (lambda: _timm("convnext_tiny"), _image),
    "ViT-Ti": (lambda: _timm("vit_tiny_patch16_224"), lambda: _image(224)),
    "BERT": (_bert, lambda: {"input_ids": _tokens(200)}),
    "Llama, grouped-query": (llama, lambda: {"input_ids": _tokens(200)}),
    "GPT-2": (_gpt2, lambda: {"input_ids": _tokens(200)}),
    "LSTM": (lambda: Recurrent(nn.LSTM, layers=2), _tokens),
    "BiLSTM": (lambda: Recurrent(nn.LSTM, both=True), _tokens),
    "GRU": (lambda: Recurrent(nn.GRU), _tokens),
    "nn.TransformerEncoder": (EncoderClassifier, _tokens),
    "channel shuffle": (Shuffle, lambda: _image(16)),
    "pixel shuffle": (SuperResolution, lambda: _image(16)),
    "group norm, grouped conv": (GroupNormNet, lambda: _image(16)),
    "tied embedding": (Tied, lambda: _tokens(50)),
    "gated linear units": (Highway, lambda: torch.randn(2, 20)),
}
"""How each network is made, and what it runs on."""


def randomized(model: nn.Module) -> nn.Module:
    """Give every norm scales, shifts and statistics that are not 1 and 0, where a wrong channel would not show."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for statistic, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):
                if statistic is not None:
                    nn.init.uniform_(statistic, low, high)
    return model.eval()
