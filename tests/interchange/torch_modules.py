"""Minimal torch modules under the names of the public checkpoints.

Only the architecture and the names of the state dict matter; weights are drawn.
"""

import collections

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
functional = torch.nn.functional


def draw(module, *, seed=0, scale=1.0):
  """Random parameters and running statistics, in evaluation mode."""
  generator = torch.Generator().manual_seed(seed)
  for name, tensor in module.state_dict().items():
    if name.endswith("num_batches_tracked"):
      continue
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("running_var"):
      tensor.copy_(1.0 + 0.3 * noise.abs())
    elif tensor.ndim < 2:
      is_scale = name.endswith("weight") and "bias" not in name
      tensor.copy_(0.1 * noise + (1.0 if is_scale else 0.0))
    else:
      fan_in = tensor[0].numel()
      tensor.copy_(scale * noise * fan_in**-0.5)
  return module.eval()


# R(2+1)D, under the names of torchvision's VideoResNet.


def mid_width(in_width, out_width):
  return in_width * out_width * 27 // (in_width * 9 + 3 * out_width)


def factorised(in_width, out_width, mid, stride):
  return nn.Sequential(
    nn.Conv3d(
      in_width, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False
    ),
    nn.BatchNorm3d(mid),
    nn.ReLU(),
    nn.Conv3d(mid, out_width, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
  )


class BasicBlock(nn.Module):
  def __init__(self, in_width, out_width, stride, per_convolution):
    super().__init__()
    first = mid_width(in_width, out_width)
    second = mid_width(out_width, out_width) if per_convolution else first
    self.conv1 = nn.Sequential(
      factorised(in_width, out_width, first, stride),
      nn.BatchNorm3d(out_width),
      nn.ReLU(),
    )
    self.conv2 = nn.Sequential(
      factorised(out_width, out_width, second, 1), nn.BatchNorm3d(out_width)
    )
    self.downsample = None
    if stride > 1 or in_width != out_width:
      self.downsample = nn.Sequential(
        nn.Conv3d(in_width, out_width, 1, stride, bias=False),
        nn.BatchNorm3d(out_width),
      )

  def forward(self, x):
    shortcut = x if self.downsample is None else self.downsample(x)
    return functional.relu(self.conv2(self.conv1(x)) + shortcut)


class VideoResNet(nn.Module):
  def __init__(self, size, num_classes=7):
    super().__init__()
    mid, width = size.stem_widths
    self.stem = nn.Sequential(
      nn.Conv3d(3, mid, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
      nn.BatchNorm3d(mid),
      nn.ReLU(),
      nn.Conv3d(mid, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
      nn.BatchNorm3d(width),
      nn.ReLU(),
    )
    for layer, (depth, out_width) in enumerate(
      zip(size.depths, size.widths, strict=True)
    ):
      blocks = []
      for index in range(depth):
        stride = 2 if layer and not index else 1
        blocks.append(
          BasicBlock(width, out_width, stride, size.mid_width_per_convolution)
        )
        width = out_width
      setattr(self, f"layer{layer + 1}", nn.Sequential(*blocks))
    self.num_layers = len(size.depths)
    self.fc = nn.Linear(width, num_classes)
    for module in self.modules():
      if isinstance(module, nn.BatchNorm3d):
        module.eps = size.norm_epsilon
        module.momentum = 1.0 - size.norm_momentum

  def forward(self, x):  # (b, 3, t, y, x) -> {our name: activation}
    seen = {"stem": self.stem(x)}
    y = seen["stem"]
    for layer in range(self.num_layers):
      for index, block in enumerate(getattr(self, f"layer{layer + 1}")):
        y = seen[f"layer{layer + 1}_block{index}"] = block(y)
    seen["feature"] = y.mean(dim=(2, 3, 4))
    return seen


# CLIP, under OpenAI's names.


class QuickGelu(nn.Module):
  def forward(self, x):
    return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
  def __init__(self, width, heads, hidden, activation):
    super().__init__()
    self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
    self.ln_1 = nn.LayerNorm(width)
    self.mlp = nn.Sequential(
      collections.OrderedDict(
        c_fc=nn.Linear(width, hidden),
        gelu=activation,
        c_proj=nn.Linear(hidden, width),
      )
    )
    self.ln_2 = nn.LayerNorm(width)

  def forward(self, x, mask=None):
    y = self.ln_1(x)
    x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
    return x + self.mlp(self.ln_2(x))


class ClipStack(nn.Module):
  def __init__(self, size, activation):
    super().__init__()
    self.resblocks = nn.ModuleList(
      ClipBlock(size.width, size.num_heads, size.mlp_width, activation)
      for _ in range(size.depth)
    )

  def forward(self, x, mask=None):
    seen = []
    for block in self.resblocks:
      x = block(x, mask)
      seen.append(x)
    return x, seen


class ClipImage(nn.Module):
  def __init__(self, size, activation, side, patch, projection):
    super().__init__()
    width = size.width
    self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
    self.class_embedding = nn.Parameter(torch.zeros(width))
    places = 1 + (side // patch) ** 2
    self.positional_embedding = nn.Parameter(torch.zeros(places, width))
    self.ln_pre = nn.LayerNorm(width)
    self.transformer = ClipStack(size, activation)
    self.ln_post = nn.LayerNorm(width)
    self.proj = nn.Parameter(torch.zeros(width, projection))

  def forward(self, images):
    x = self.conv1(images).flatten(2).transpose(1, 2)
    token = self.class_embedding.expand(x.shape[0], 1, -1)
    x = torch.cat([token, x], dim=1) + self.positional_embedding
    x, seen = self.transformer(self.ln_pre(x))
    return self.ln_post(x[:, 0]), seen


class Clip(nn.Module):
  def __init__(
    self,
    video,
    text,
    *,
    quick,
    side=16,
    patch=8,
    vocab=50,
    length=9,
    projection=12,
  ):
    super().__init__()
    activation = QuickGelu() if quick else nn.GELU()
    self.visual = ClipImage(video, activation, side, patch, projection)
    self.transformer = ClipStack(text, activation)
    self.token_embedding = nn.Embedding(vocab, text.width)
    self.positional_embedding = nn.Parameter(torch.zeros(length, text.width))
    self.ln_final = nn.LayerNorm(text.width)
    self.text_projection = nn.Parameter(torch.zeros(text.width, projection))
    self.logit_scale = nn.Parameter(torch.zeros(()))

  def encode_text(self, tokens, last):
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = self.token_embedding(tokens) + self.positional_embedding[:length]
    x, seen = self.transformer(x, mask)
    x = self.ln_final(x)
    return x[torch.arange(x.shape[0]), last], seen


# BERT, under Hugging Face's names.


class BertLayer(nn.Module):
  def __init__(self, size):
    super().__init__()
    width = size.width
    self.attention = nn.ModuleDict(
      {
        "self": nn.ModuleDict(
          {n: nn.Linear(width, width) for n in ("query", "key", "value")}
        ),
        "output": nn.ModuleDict(
          {
            "dense": nn.Linear(width, width),
            "LayerNorm": nn.LayerNorm(width, eps=1e-12),
          }
        ),
      }
    )
    self.intermediate = nn.ModuleDict(
      {"dense": nn.Linear(width, size.mlp_width)}
    )
    self.output = nn.ModuleDict(
      {
        "dense": nn.Linear(size.mlp_width, width),
        "LayerNorm": nn.LayerNorm(width, eps=1e-12),
      }
    )
    self.heads = size.num_heads

  def forward(self, x, mask):
    def heads(name):
      y = self.attention["self"][name](x)
      return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    y = functional.scaled_dot_product_attention(
      heads("query"), heads("key"), heads("value"), mask[:, None, None]
    )
    y = self.attention["output"]["dense"](y.transpose(1, 2).flatten(2))
    x = self.attention["output"]["LayerNorm"](x + y)
    y = functional.gelu(self.intermediate["dense"](x))
    return self.output["LayerNorm"](x + self.output["dense"](y))


class Bert(nn.Module):
  def __init__(self, size, vocab=50, length=9):
    super().__init__()
    width = size.width
    self.embeddings = nn.ModuleDict(
      {
        "word_embeddings": nn.Embedding(vocab, width),
        "position_embeddings": nn.Embedding(length, width),
        "token_type_embeddings": nn.Embedding(2, width),
        "LayerNorm": nn.LayerNorm(width, eps=1e-12),
      }
    )
    self.encoder = nn.ModuleDict(
      {"layer": nn.ModuleList(BertLayer(size) for _ in range(size.depth))}
    )
    self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

  def forward(self, tokens, mask):
    tables = self.embeddings
    x = tables["word_embeddings"](tokens)
    x = x + tables["position_embeddings"].weight[: tokens.shape[1]]
    x = tables["LayerNorm"](x + tables["token_type_embeddings"].weight[0])
    seen = []
    for layer in self.encoder["layer"]:
      x = layer(x, mask)
      seen.append(x)
    return x, seen


# VideoMAE, under its authors' names.


class MaeAttention(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.qkv = nn.Linear(width, 3 * width, bias=False)
    self.q_bias = nn.Parameter(torch.zeros(width))
    self.v_bias = nn.Parameter(torch.zeros(width))
    self.proj = nn.Linear(width, width)
    self.heads = heads

  def forward(self, x):
    bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
    parts = (self.qkv(x) + bias).chunk(3, dim=-1)
    q, k, v = (
      part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts
    )
    y = functional.scaled_dot_product_attention(q, k, v)
    return self.proj(y.transpose(1, 2).flatten(2))


class MaeBlock(nn.Module):
  def __init__(self, size):
    super().__init__()
    width = size.width
    self.norm1 = nn.LayerNorm(width, eps=1e-6)
    self.attn = MaeAttention(width, size.num_heads)
    self.norm2 = nn.LayerNorm(width, eps=1e-6)
    self.mlp = nn.ModuleDict(
      {
        "fc1": nn.Linear(width, size.mlp_width),
        "fc2": nn.Linear(size.mlp_width, width),
      }
    )

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    y = functional.gelu(self.mlp["fc1"](self.norm2(x)))
    return x + self.mlp["fc2"](y)


class VideoMae(nn.Module):
  def __init__(self, size, patch, num_classes=5):
    super().__init__()
    width = size.width
    self.patch_embed = nn.ModuleDict(
      {"proj": nn.Conv3d(3, width, patch, patch)}
    )
    self.blocks = nn.ModuleList(MaeBlock(size) for _ in range(size.depth))
    self.fc_norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, num_classes)

  def forward(self, x, positions):
    x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + positions
    seen = []
    for block in self.blocks:
      x = block(x)
      seen.append(x)
    return self.fc_norm(x.mean(1)), seen
