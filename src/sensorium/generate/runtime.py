"""The trunk laid out for inference: the same hidden states and logits as the model, sooner.

Many rows (prompts, batches, noisy blocks) run through blocked copies of the matrices with projections joined. One
row, which is what a single answer decodes, runs through compiled loops over the model's own matrices, or over
8-bit copies of them. Attention and the cache lie between the compiled pieces, so that no shape in them ever changes
and they are compiled once.

Shape legend: B rows of a batch, T positions, M = B T, S keys, D width, N heads, K kv heads, R = N / K, H head dim.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensorium.config import ModelConfig
from sensorium.generate.weights import Int8Weight, blocked, linear, linear_row, quantize
from sensorium.model.kv_cache import KVCache, LayerCache
from sensorium.model.layers import SwiGLU, apply_rope, rope_tables
from sensorium.model.sensorium import Sensorium

Weights = Literal["float32", "int8"]


@dataclass(frozen=True)
class LayerWeights:
    """One block; ``qkv`` and ``gate_up`` are one joined matrix or the separate ones, as ``Pieces.linear`` takes them."""

    input_norm: Tensor
    qkv: Any
    head_norms: tuple[Tensor, Tensor] | None
    out: Any
    mlp_norm: Tensor
    mlp: tuple[Any, Any]  # gate_up, down
    noisy_mlp: tuple[Any, Any] | None

    def attention(self) -> tuple[Any, ...]:
        """What ``Pieces.attention_inputs`` takes."""
        return self.input_norm, self.qkv, self.head_norms


class Pieces:
    """What stands between two attentions, as functions of rows ``[M, D]`` alone.

    Args:
        linear: rows and a matrix, in whatever layout -> rows.
    """

    def __init__(self, config: ModelConfig, linear: Callable[[Tensor, Any], Tensor]) -> None:
        self.config, self.linear = config, linear

    def attention_inputs(
        self,
        x_MD: Tensor,
        rope: tuple[Tensor, Tensor],
        norm: Tensor,
        qkv: Any,
        head_norms: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> queries ``[M, N, H]``, keys and values ``[M, K, H]``."""
        N, K, H = self.config.num_heads, self.config.num_kv_heads, self.config.head_dim
        qkv_MXH = self.linear(self.norm(x_MD, norm), qkv).view(len(x_MD), N + 2 * K, H)
        if head_norms is None:
            qk_MXH = apply_rope(qkv_MXH[:, : N + K], *rope).to(x_MD.dtype)
            return qk_MXH[:, :N], qk_MXH[:, N:], qkv_MXH[:, N + K :]
        q_MNH = apply_rope(self.norm(qkv_MXH[:, :N], head_norms[0]), *rope).to(x_MD.dtype)
        k_MKH = apply_rope(self.norm(qkv_MXH[:, N : N + K], head_norms[1]), *rope).to(x_MD.dtype)
        return q_MNH, k_MKH, qkv_MXH[:, N + K :]

    def after_attention(
        self, x_MD: Tensor, mixed_MD: Tensor, out: Any, norm: Tensor, mlp: tuple[Any, Any]
    ) -> Tensor:
        """Output projection and feed-forward, each added to what came."""
        x_MD = x_MD + self.linear(mixed_MD, out)
        return x_MD + self.feed_forward(self.norm(x_MD, norm), mlp)

    def between(
        self,
        x_MD: Tensor,
        mixed_MD: Tensor,
        rope: tuple[Tensor, Tensor],
        out: Any,
        norm: Tensor,
        mlp: tuple[Any, Any],
        following: tuple[Any, ...],
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The end of one block and the beginning of the following."""
        x_MD = self.after_attention(x_MD, mixed_MD, out, norm, mlp)
        return x_MD, self.attention_inputs(x_MD, rope, *following)

    def last(
        self, x_MD: Tensor, mixed_MD: Tensor, out: Any, norm: Tensor, mlp: tuple[Any, Any], final_norm: Tensor
    ) -> Tensor:
        """The end of the last block, and the final norm."""
        return self.norm(self.after_attention(x_MD, mixed_MD, out, norm, mlp), final_norm)

    def feed_forward(self, x_MD: Tensor, mlp: tuple[Any, Any]) -> Tensor:
        """SwiGLU."""
        gate, up = self.linear(x_MD, mlp[0]).chunk(2, dim=-1)
        return self.linear(F.silu(gate) * up, mlp[1])

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last axis."""
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)


class SplitPieces(Pieces):
    """Rows of text and of noise in one step, each through the feed-forward of its kind (experts "ffn").

    Args:
        is_noisy_M: bool. In place of a feed-forward's weights, ``mlp`` is a pair of them: for text, for noise.
    """

    def __init__(
        self, config: ModelConfig, linear: Callable[[Tensor, Any], Tensor], is_noisy_M: Tensor
    ) -> None:
        super().__init__(config, linear)
        self.is_noisy_M = is_noisy_M

    def feed_forward(self, x_MD: Tensor, mlp: tuple[Any, Any]) -> Tensor:
        """SwiGLU by kind."""
        out_MD = torch.empty_like(x_MD)
        for kind_M, weights in zip((~self.is_noisy_M, self.is_noisy_M), mlp, strict=True):
            out_MD[kind_M] = super().feed_forward(x_MD[kind_M], weights)
        return out_MD


class InferenceRuntime:
    """Stands in for a model's ``trunk`` and ``logits``; see ``prepare_for_inference``."""

    def __init__(self, model: Sensorium, *, weights: Weights, compile: bool) -> None:
        self.model, self.config, self.weights = model, model.config, weights
        self.pieces = Pieces(self.config, linear)
        self.row_pieces: CompiledPieces | None = None
        self.row_layers: list[Any] = []
        self.row_head: Any = ()
        self.compile_error = ""  # why there is no compiled path although it was asked for
        self.refresh(compile=compile)
        if compile:
            self._compile()
        if self.row_pieces is None:
            self.row_layers, self.row_head = [], ()

    def refresh(self, *, compile: bool | None = None) -> None:
        """Lay out what the model's weights are now."""
        model, matrices = self.model, _Matrices(self.weights)
        head = model.embed_tokens if model.lm_head is None else model.lm_head
        self.row_layers, self.row_head = [], ()
        with torch.inference_mode():
            if self.row_pieces is not None if compile is None else compile:
                self.row_layers = [_layer_weights(layer, matrices.split) for layer in model.layers]
                self.row_head = matrices.split([head.weight])
            self.layers = [_layer_weights(layer, matrices.joined) for layer in model.layers]
            self.head = matrices.joined([head.weight])

    @torch.inference_mode()
    def trunk(
        self,
        x_BTD: Tensor,
        positions_BT3: Tensor,
        mask: Tensor | None,
        is_noisy_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Embeds -> hidden states after the final norm; see ``Sensorium.trunk``."""
        B, T, D = x_BTD.shape
        cos, sin = rope_tables(positions_BT3, self.config.head_dim, self.config.rope_theta)
        rope = (cos.view(B * T, 1, -1), sin.view(B * T, 1, -1))
        pieces: Any = self.pieces
        layers, feed_forwards = self.layers, [layer.mlp for layer in self.layers]
        if B * T == 1 and self.row_pieces is not None:
            pieces, layers = self.row_pieces, self.row_layers
            feed_forwards = [layer.mlp for layer in layers]
        if is_noisy_BT is not None and self.config.experts == "ffn":
            noisy: Any = [layer.noisy_mlp for layer in layers]
            if bool(is_noisy_BT.all()):
                feed_forwards = noisy
            elif bool(is_noisy_BT.any()):
                pieces = SplitPieces(self.config, linear, is_noisy_BT.flatten())
                feed_forwards = list(zip(feed_forwards, noisy, strict=True))
        x_MD = x_BTD.reshape(B * T, D)
        inputs = pieces.attention_inputs(x_MD, rope, *layers[0].attention())
        for index, (layer, mlp) in enumerate(zip(layers, feed_forwards, strict=True)):
            mixed_MD = self._attend(B, T, inputs, mask, cache.layers[index] if cache else None)
            if index + 1 < len(layers):
                following = layers[index + 1].attention()
                x_MD, inputs = pieces.between(x_MD, mixed_MD, rope, layer.out, layer.mlp_norm, mlp, following)
            else:
                norm = self.model.norm.weight
                x_MD = pieces.last(x_MD, mixed_MD, layer.out, layer.mlp_norm, mlp, norm)
        return x_MD.view(B, T, D)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., D]`` -> ``[..., V]``."""
        x_MD = hidden.reshape(-1, self.config.dim)
        if len(x_MD) == 1 and self.row_pieces is not None:
            out = self.row_pieces.logits(x_MD, self.row_head)
        else:
            out = linear(x_MD, self.head)
        return out.view(*hidden.shape[:-1], self.config.vocab_size)

    def _attend(
        self,
        B: int,
        T: int,
        inputs: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """-> ``[M, N H]``. The R queries that share keys stand behind each other: keys are never repeated."""
        q_MNH, k_MKH, v_MKH = inputs
        K, H = self.config.num_kv_heads, self.config.head_dim
        R = self.config.num_heads // K
        k_BKSH, v_BKSH = k_MKH.view(B, T, K, H).transpose(1, 2), v_MKH.view(B, T, K, H).transpose(1, 2)
        if cache is not None:
            k_BKSH, v_BKSH = cache.put(k_BKSH, v_BKSH)
        q_BKXH = q_MNH.reshape(B, T, K, R, H).permute(0, 2, 3, 1, 4).reshape(B, K, R * T, H)
        if mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, R, 1)
        out_BKXH = F.scaled_dot_product_attention(q_BKXH, k_BKSH, v_BKSH, attn_mask=mask)
        return out_BKXH.view(B, K, R, T, H).permute(0, 3, 1, 2, 4).reshape(B * T, -1)

    def _compile(self) -> None:
        """Compile the pieces of one row and run each once; without a compiler, say so and go on without them."""
        started = time.perf_counter()
        try:
            self.row_pieces = CompiledPieces(self.config)
            x_BTD = self.model.embed_tokens.weight.new_zeros(1, 1, self.config.dim)
            positions = torch.zeros(1, 1, 3, dtype=torch.int64, device=x_BTD.device)
            with torch.inference_mode():
                self.logits(self.trunk(x_BTD.clone(), positions, None))
        except Exception as error:  # of many kinds: no compiler, one that fails, a platform without support
            self.row_pieces = None
            self.compile_error = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"decoding is not compiled ({self.compile_error}); answers are the same, but single ones come more "
                "slowly: install a C++ compiler (g++ or clang++)",
                stacklevel=4,
            )
        self.compile_s = time.perf_counter() - started


class CompiledPieces:
    """``Pieces`` of one row, each compiled for shapes that never change."""

    def __init__(self, config: ModelConfig) -> None:
        pieces = Pieces(config, linear_row)
        options: dict[str, Any] = {
            "cpp.enable_floating_point_contract_flag": "fast"
        }  # multiply and add in one instruction

        def compiled(function: Callable[..., Any]) -> Any:
            return torch.compile(function, fullgraph=True, dynamic=False, options=options)

        self.attention_inputs = compiled(pieces.attention_inputs)
        self.between = compiled(pieces.between)
        self.last = compiled(pieces.last)
        self.logits = compiled(linear_row)


class _Matrices:
    """Matrices with the same inputs, laid out side by side; each is rounded once, whatever its layouts."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.rounded: dict[int, Int8Weight] = {}

    def split(self, matrices: Sequence[Tensor]) -> Any:
        """As ``linear_row`` takes them: one by one."""
        if self.weights == "float32":
            return tuple(matrix.detach() for matrix in matrices)
        return tuple((q.words_NQ, q.scale_N) for q in map(self._round, matrices))

    def joined(self, matrices: Sequence[Tensor]) -> Any:
        """As ``linear`` takes them: one matrix, in blocks."""
        if self.weights == "int8":
            matrices = [self._round(matrix).dequantize() for matrix in matrices]
        return blocked(torch.cat([matrix.detach() for matrix in matrices]))

    def _round(self, matrix: Tensor) -> Int8Weight:
        if id(matrix) not in self.rounded:  # parameters live as long as their model
            self.rounded[id(matrix)] = quantize(matrix.detach())
        return self.rounded[id(matrix)]


def _layer_weights(layer: Any, take: Callable[[Sequence[Tensor]], Any]) -> LayerWeights:
    attention = layer.self_attn

    def mlp(module: SwiGLU) -> tuple[Any, Any]:
        gate_up = take([module.gate_proj.weight, module.up_proj.weight])
        return gate_up, take([module.down_proj.weight])

    has_norms = not isinstance(attention.q_norm, nn.Identity)
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=take([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        head_norms=(attention.q_norm.weight.detach(), attention.k_norm.weight.detach())
        if has_norms
        else None,
        out=take([attention.o_proj.weight]),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        mlp=mlp(layer.mlp),
        noisy_mlp=mlp(layer.noisy_mlp) if layer.noisy_mlp is not None else None,
    )


def check_weights(weights: Weights | None) -> None:
    """Refuse weights of an unknown kind."""
    if weights not in ("float32", "int8", None):
        raise ValueError(f"weights={weights!r} is unknown; give 'float32' or 'int8'")


def prepare_for_inference(
    model: Sensorium, *, weights: Weights = "float32", compile: bool | None = None
) -> InferenceRuntime:
    """Lay a model's trunk and vocabulary out for generating.

    The model itself stays as it is, and what is laid out is what its weights are now: after they change, call again.
    Blocked copies take as much memory as the trunk; int8 takes a quarter more.

    Args:
        model: in evaluation mode, float32 on a CPU. Elsewhere, or in another dtype, the plain products of torch are
            used (not measured on a GPU).
        weights: "int8" rounds matrices of the trunk and of the vocabulary to 8 bits. Every path then computes with the
            rounded values; the compiled one reads them as bytes.
        compile: loops for decoding one answer at a time; takes up to a minute the first time, seconds from then on.
            None: where they pay without being asked for, with int8.

    Raises:
        ValueError: unknown weights, or widths that int8 cannot take.
    """
    check_weights(weights)
    return InferenceRuntime(model, weights=weights, compile=weights == "int8" if compile is None else compile)
