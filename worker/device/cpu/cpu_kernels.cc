#include "worker/device/cpu/cpu_kernels.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/model/layer_plan.h"
#include "common/numerics/kernels_version.h"
#include "worker/device/cpu/cpu_typed_attention.h"

namespace dsrun::worker {
namespace {

// Sizes of the pieces that loops are cut into: large enough that handing one out costs nothing,
// whole leaves and cache lines. They decide no bits.
constexpr int64_t kRowPiece = 8;
constexpr int64_t kColumnPiece = 192;
constexpr int64_t kVocabPieces = 16;

// The weight as (inputs, outputs), however it stands, and as (outputs, inputs).
Operand Weight(const LinearShape& shape, ConstReals w) {
  if (shape.order == WeightOrder::kOutputsInputs) return {w, shape.inputs, true};
  return {w, shape.outputs};
}
Operand WeightTransposed(const LinearShape& shape, ConstReals w) {
  if (shape.order == WeightOrder::kOutputsInputs) return {w, shape.inputs};
  return {w, shape.outputs, true};
}

// Element `index` of x.
const void* At(ConstReals x, int64_t index) { return (x + index).data(); }
void* At(Reals x, int64_t index) { return (x + index).data(); }
// The same, or null.
const void* AtOrNull(ConstReals x, int64_t index) { return x == nullptr ? nullptr : At(x, index); }

// Of row `row` of an array of rows of `rows_of_sample` each, from `column` on.
RowMask MaskOfRow(const DropoutMask& mask, int64_t row, int64_t rows_of_sample, int64_t column) {
  const PhiloxKey key = mask.KeyOf(row / rows_of_sample);
  return {.key = {key[0], key[1]},
          .threshold = mask.threshold,
          .scale = mask.scale,
          .row = row % rows_of_sample,
          .column = column};
}
HeadMask MaskOfHead(const DropoutMask& mask, int64_t sample, int64_t head) {
  if (!mask.drops()) return {};
  return {
      .key = mask.KeyOf(sample), .threshold = mask.threshold, .scale = mask.scale, .head = head};
}

}  // namespace

CpuKernels::CpuKernels(ThreadPool& pool, CpuIsa isa)
    : pool_(pool), isa_(isa), loops_(LoopsFor(isa)), matmul_(pool), half_matmul_(pool, loops_) {}

NumericsFingerprint CpuKernels::Fingerprint() const {
  const MatrixLibrary library = MatrixLibraryInUse();
  const Tiling tiling = TilesOf(1 << 20, 1 << 20);
  const Tiling narrow = TilesOf(1 << 20, 1 << 20, TileWork::kSecondMatrix);
  NumericsFingerprint out;
  out.library = library.name;
  out.library_version = library.version;
  // Our loops have the same bits for every instruction set, so theirs is not part of it.
  out.isa = library.isa;
  out.tiles = std::to_string(tiling.tile_m) + "x" + std::to_string(tiling.tile_n) + " or " +
              std::to_string(narrow.tile_n);
  out.attention_tiles = std::to_string(kAttentionQueries) + "x" + std::to_string(kAttentionKeys);
  out.denormals = "ftz daz";
  out.kernels_version = kCpuKernelsVersion;
  return out;
}

// --- Products

void CpuKernels::ProductAlone(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b,
                              Reals out) {
  const RealLoops& loops = LoopsOf(out);
  Product(m, n, k, a, b, out, TileWork::kLittle, [&](const Tile& tile) {
    if (out.dtype() == DType::kF32) return;
    for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
      loops.round(tile.columns.size(), tile.Row(row), At(out, row * n + tile.columns.begin));
    }
  });
}

void CpuKernels::ProductToFloats(DType dtype, int64_t m, int64_t n, int64_t k, const Operand& a,
                                 const Operand& b, float beta, float* out, int64_t stride) {
  if (dtype != DType::kF32) {
    half_matmul_.RunToFloats(m, n, k, a, b, beta, out, stride);
  } else if (beta == 0) {
    matmul_.Run(m, n, k, a, b, out, stride);
  } else {
    matmul_.Add(m, n, k, a, b, out, stride);
  }
}

// --- Embedding

void CpuKernels::EmbeddingForward(const SequenceShape& shape, const int32_t* tokens,
                                  ConstReals token_table, ConstReals position_table, Reals out) {
  const RealLoops& loops = LoopsOf(out);
  const int64_t width = shape.width;
  ForPieces(shape.rows(), kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const void* const of_token = At(token_table, tokens[row] * width);
      if (position_table == nullptr) {
        std::memcpy(At(out, row * width), of_token, static_cast<size_t>(out.bytes_of(width)));
        continue;
      }
      loops.add(width, of_token, At(position_table, row % shape.seq_length * width),
                At(out, row * width));
    }
  });
}

void CpuKernels::EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size,
                                   int64_t positions, const int32_t* tokens, ConstReals dout,
                                   float* dtoken_table, float* dposition_table) {
  const RealLoops& loops = LoopsOf(dout);
  const int64_t width = shape.width;
  // Each piece owns a range of the vocabulary and looks at all tokens, in order.
  const int64_t piece = (vocab_size + kVocabPieces - 1) / kVocabPieces;
  const int64_t wanted_rows = dtoken_table == nullptr ? 0 : vocab_size;
  const int64_t wanted_positions = dposition_table == nullptr ? 0 : positions;
  ForPieces(wanted_rows, piece, [&](int64_t begin, int64_t end) {
    std::memset(dtoken_table + begin * width, 0,
                static_cast<size_t>((end - begin) * width) * sizeof(float));
    for (int64_t row = 0; row < shape.rows(); ++row) {
      if (tokens[row] < begin || tokens[row] >= end) continue;
      loops.accumulate(width, At(dout, row * width), dtoken_table + tokens[row] * width);
    }
  });
  ForPieces(wanted_positions, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t position = begin; position < end; ++position) {
      float* const sum = dposition_table + position * width;
      if (position >= shape.seq_length) {
        std::fill_n(sum, width, 0.0f);
        continue;
      }
      loops.widen(width, At(dout, position * width), sum);
      for (int64_t sequence = 1; sequence < shape.batch; ++sequence) {
        loops.accumulate(width, At(dout, (sequence * shape.seq_length + position) * width), sum);
      }
    }
  });
}

// --- Layernorm

void CpuKernels::LayerNormForward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                                  ConstReals bias, Reals out, float* mean, float* rstd) {
  const RealLoops& loops = LoopsOf(x);
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loops.layernorm_row(width, At(x, row * width), weight.data(), bias.data(),
                          At(out, row * width), mean + row, rstd + row);
    }
  });
}

void CpuKernels::LayerNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                                   const float* mean, const float* rstd, ConstReals dout,
                                   ConstReals residual, Reals dx, float* dweight, float* dbias) {
  const RealLoops& loops = LoopsOf(x);
  const int64_t wanted = dweight == nullptr && dbias == nullptr ? 0 : width;
  ForPieces(wanted, kColumnPiece, [&](int64_t begin, int64_t end) {
    float unwanted[kColumnPiece];  // both come in one pass
    loops.layernorm_column_sums(rows, end - begin, width, At(x, begin), mean, rstd, At(dout, begin),
                                dweight == nullptr ? unwanted : dweight + begin,
                                dbias == nullptr ? unwanted : dbias + begin);
  });
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      loops.layernorm_backward_row(width, At(x, at), weight.data(), mean[row], rstd[row],
                                   At(dout, at), AtOrNull(residual, at), At(dx, at));
    }
  });
}

// --- Root mean square norm, rotary positions

void CpuKernels::RmsNormForward(int64_t rows, int64_t width, float epsilon, ConstReals x,
                                ConstReals weight, Reals out, float* rstd) {
  const RealLoops& loops = LoopsOf(x);
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loops.rmsnorm_row(width, epsilon, At(x, row * width), weight.data(), At(out, row * width),
                        rstd + row);
    }
  });
}

void CpuKernels::RmsNormBackward(int64_t rows, int64_t width, ConstReals x, ConstReals weight,
                                 const float* rstd, ConstReals dout, ConstReals residual, Reals dx,
                                 float* dweight) {
  const RealLoops& loops = LoopsOf(x);
  const int64_t wanted = dweight == nullptr ? 0 : width;
  ForPieces(wanted, kColumnPiece, [&](int64_t begin, int64_t end) {
    loops.rmsnorm_column_sums(rows, end - begin, width, At(x, begin), rstd, At(dout, begin),
                              dweight + begin);
  });
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      loops.rmsnorm_backward_row(width, At(x, at), weight.data(), rstd[row], At(dout, at),
                                 AtOrNull(residual, at), At(dx, at));
    }
  });
}

void CpuKernels::Rotate(const RotaryShape& shape, const float* cosines, const float* sines,
                        float direction, Reals x) {
  const RealLoops& loops = LoopsOf(x);
  const int64_t pairs = shape.head_size / 2;
  ForPieces(shape.rows(), kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t position = row % shape.seq_length;
      loops.rotate_row(shape.heads, pairs, cosines + position * pairs, sines + position * pairs,
                       direction, At(x, row * shape.heads * shape.head_size));
    }
  });
}

void CpuKernels::RotaryForward(const RotaryShape& shape, const float* cosines, const float* sines,
                               Reals x) {
  Rotate(shape, cosines, sines, 1, x);
}

void CpuKernels::RotaryBackward(const RotaryShape& shape, const float* cosines, const float* sines,
                                Reals dx) {
  Rotate(shape, cosines, sines, -1, dx);
}

// --- Linear layers

void CpuKernels::LinearForward(const LinearShape& shape, ConstReals x, ConstReals w,
                               ConstReals bias, Reals out) {
  const int64_t n = shape.outputs;
  if (bias == nullptr) {
    ProductAlone(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out);
    return;
  }
  const RealLoops& loops = LoopsOf(out);
  Product(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out, TileWork::kLittle,
          [&](const Tile& tile) {
            for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
              loops.bias(tile.columns.size(), At(bias, tile.columns.begin), tile.Row(row),
                         At(out, row * n + tile.columns.begin));
            }
          });
}

void CpuKernels::LinearResidualForward(const LinearShape& shape, ConstReals x, ConstReals w,
                                       ConstReals bias, ConstReals residual, Reals out) {
  const int64_t n = shape.outputs;
  const RealLoops& loops = LoopsOf(out);
  Product(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out,
          TileWork::kSecondMatrix, [&](const Tile& tile) {
            const int64_t columns = tile.columns.size();
            for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
              const int64_t at = row * n + tile.columns.begin;
              if (bias == nullptr) {
                loops.residual(columns, At(residual, at), tile.Row(row), At(out, at));
                continue;
              }
              loops.bias_residual(columns, At(bias, tile.columns.begin), At(residual, at),
                                  tile.Row(row), At(out, at));
            }
          });
}

void CpuKernels::LinearDropoutResidualForward(const LinearShape& shape, int64_t rows_of_sample,
                                              const DropoutMask& mask, ConstReals x, ConstReals w,
                                              ConstReals bias, ConstReals residual, Reals out) {
  const int64_t n = shape.outputs;
  const RealLoops& loops = LoopsOf(out);
  Product(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out,
          TileWork::kSecondMatrix, [&](const Tile& tile) {
            const int64_t columns = tile.columns.size();
            const int64_t first = tile.columns.begin;
            for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
              const int64_t at = row * n + first;
              const RowMask of_row = MaskOfRow(mask, row, rows_of_sample, first);
              if (bias == nullptr) {
                loops.drop_residual(columns, of_row, At(residual, at), tile.Row(row), At(out, at));
                continue;
              }
              loops.bias_drop_residual(columns, of_row, At(bias, first), At(residual, at),
                                       tile.Row(row), At(out, at));
            }
          });
}

void CpuKernels::LinearGeluForward(const LinearShape& shape, ConstReals x, ConstReals w,
                                   ConstReals bias, Reals slope, Reals out) {
  const int64_t n = shape.outputs;
  const RealLoops& loops = LoopsOf(out);
  Product(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), slope,
          TileWork::kSecondMatrix, [&](const Tile& tile) {
            for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
              const int64_t at = row * n + tile.columns.begin;
              loops.bias_gelu(tile.columns.size(), At(bias, tile.columns.begin), tile.Row(row),
                              At(slope, at), At(out, at));
            }
          });
}

void CpuKernels::LinearBackwardInput(const LinearShape& shape, ConstReals dout, ConstReals w,
                                     Reals dx) {
  ProductAlone(shape.rows, shape.inputs, shape.outputs, {dout, shape.outputs},
               WeightTransposed(shape, w), dx);
}

void CpuKernels::AccumulateLinearBackwardInput(const LinearShape& shape, ConstReals dout,
                                               ConstReals w, Reals dx) {
  const int64_t n = shape.inputs;
  const Operand a = {dout, shape.outputs};
  const Operand b = WeightTransposed(shape, w);
  if (dx.dtype() == DType::kF32) {
    matmul_.Add(shape.rows, n, shape.outputs, a, b, dx.f32(), n);
    return;
  }
  const RealLoops& loops = LoopsOf(dx);
  Product(shape.rows, n, shape.outputs, a, b, dx, TileWork::kLittle, [&](const Tile& tile) {
    for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
      void* const at = At(dx, row * n + tile.columns.begin);
      loops.residual(tile.columns.size(), at, tile.Row(row), at);
    }
  });
}

void CpuKernels::LinearBackwardInputGelu(const LinearShape& shape, ConstReals dout, ConstReals w,
                                         ConstReals slope, Reals dpre) {
  const int64_t n = shape.inputs;
  const RealLoops& loops = LoopsOf(dpre);
  Product(shape.rows, n, shape.outputs, {dout, shape.outputs}, WeightTransposed(shape, w), dpre,
          TileWork::kSecondMatrix, [&](const Tile& tile) {
            for (int64_t row = tile.rows.begin; row < tile.rows.end; ++row) {
              const int64_t at = row * n + tile.columns.begin;
              loops.multiply(tile.columns.size(), At(slope, at), tile.Row(row), At(dpre, at));
            }
          });
}

void CpuKernels::LinearBackwardWeight(const LinearShape& shape, ConstReals x, ConstReals dout,
                                      float* dw) {
  if (dw == nullptr) return;
  if (shape.order == WeightOrder::kOutputsInputs) {
    ProductToFloats(x.dtype(), shape.outputs, shape.inputs, shape.rows, {dout, shape.outputs, true},
                    {x, shape.inputs}, 0, dw, shape.inputs);
    return;
  }
  ProductToFloats(x.dtype(), shape.inputs, shape.outputs, shape.rows, {x, shape.inputs, true},
                  {dout, shape.outputs}, 0, dw, shape.outputs);
}

void CpuKernels::LinearBackwardBias(const LinearShape& shape, ConstReals dout, float* dbias) {
  if (dbias == nullptr) return;
  const RealLoops& loops = LoopsOf(dout);
  ForPieces(shape.outputs, kColumnPiece, [&](int64_t begin, int64_t end) {
    loops.column_sums(shape.rows, end - begin, shape.outputs, At(dout, begin), dbias + begin);
  });
}

// --- Output head

void CpuKernels::HeadForward(const HeadShape& shape, ConstReals x, ConstReals token_table,
                             float* logits) {
  ProductToFloats(x.dtype(), shape.rows, shape.vocab_size, shape.width, {x, shape.width},
                  {token_table, shape.width, true}, 0, logits, shape.stride);
}

void CpuKernels::HeadBackwardInput(const HeadShape& shape, const float* dlogits,
                                   ConstReals token_table, Reals dx) {
  ProductAlone(shape.rows, shape.width, shape.vocab_size, {dlogits, shape.stride},
               {token_table, shape.width}, dx);
}

void CpuKernels::HeadBackwardWeight(const HeadShape& shape, const float* dlogits, ConstReals x,
                                    float* dtoken_table) {
  if (dtoken_table == nullptr) return;
  ProductToFloats(x.dtype(), shape.vocab_size, shape.width, shape.rows,
                  {dlogits, shape.stride, true}, {x, shape.width}, 0, dtoken_table, shape.width);
}

void CpuKernels::AccumulateHeadBackwardWeight(const HeadShape& shape, const float* dlogits,
                                              ConstReals x, float* dtoken_table) {
  if (dtoken_table == nullptr) return;
  ProductToFloats(x.dtype(), shape.vocab_size, shape.width, shape.rows,
                  {dlogits, shape.stride, true}, {x, shape.width}, 1, dtoken_table, shape.width);
}

// --- Elementwise

void CpuKernels::SwiGluForward(int64_t n, ConstReals gate, ConstReals up, Reals out) {
  const RealLoops& loops = LoopsOf(out);
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops.swiglu(end - begin, At(gate, begin), At(up, begin), At(out, begin));
  });
}

void CpuKernels::SwiGluBackward(int64_t n, ConstReals gate, ConstReals up, ConstReals dout,
                                Reals dgate, Reals dup) {
  const RealLoops& loops = LoopsOf(dout);
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops.swiglu_backward(end - begin, At(gate, begin), At(up, begin), At(dout, begin),
                          At(dgate, begin), At(dup, begin));
  });
}

void CpuKernels::Dropout(const SequenceShape& shape, const DropoutMask& mask, ConstReals x,
                         Reals out) {
  const RealLoops& loops = LoopsOf(out);
  ForPieces(shape.rows(), kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * shape.width;
      loops.drop(shape.width, MaskOfRow(mask, row, shape.seq_length, 0), At(x, at), At(out, at));
    }
  });
}

void CpuKernels::Accumulate(int64_t n, const float* src, float* dst) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.f32.accumulate(end - begin, src + begin, dst + begin);
  });
}

void CpuKernels::Cast(int64_t n, const float* x, Reals out) {
  const RealLoops& loops = LoopsOf(out);
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops.round(end - begin, x + begin, At(out, begin));
  });
}

// --- Attention

int64_t CpuKernels::AttentionScratch(const SequenceShape& shape, DType dtype) const {
  return pool_.threads() * TypedAttentionScratch(shape.head_size(), shape.seq_length, dtype);
}

void CpuKernels::AttentionForward(const SequenceShape& shape, const DropoutMask& mask,
                                  ConstReals qkv, float* scratch, Reals out, float* log_sum_exp) {
  const int64_t width = shape.width;
  const int64_t of_thread = TypedAttentionScratch(shape.head_size(), shape.seq_length, qkv.dtype());
  const HeadRows rows = {shape.seq_length, shape.head_size(), 3 * width, 3 * width, width, 0};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t column = index % shape.heads * shape.head_size();
    const ConstReals q = qkv + (row * 3 * width + column);
    TypedAttention(rows, isa_, qkv.dtype(), scratch + thread * of_thread)
        .Forward(MaskOfHead(mask, index / shape.heads, index % shape.heads), q, q + width,
                 q + 2 * width, out + (row * width + column),
                 log_sum_exp + index * shape.seq_length);
  });
}

void CpuKernels::AttentionBackward(const SequenceShape& shape, const DropoutMask& mask,
                                   ConstReals qkv, ConstReals out, const float* log_sum_exp,
                                   ConstReals dout, float* scratch, Reals dqkv) {
  const int64_t width = shape.width;
  const int64_t of_thread = TypedAttentionScratch(shape.head_size(), shape.seq_length, qkv.dtype());
  const HeadRows rows = {shape.seq_length, shape.head_size(), 3 * width, 3 * width, width, 0};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t column = index % shape.heads * shape.head_size();
    const ConstReals q = qkv + (row * 3 * width + column);
    const Reals dq = dqkv + (row * 3 * width + column);
    TypedAttention(rows, isa_, qkv.dtype(), scratch + thread * of_thread)
        .Backward(MaskOfHead(mask, index / shape.heads, index % shape.heads), q, q + width,
                  q + 2 * width, out + (row * width + column),
                  log_sum_exp + index * shape.seq_length, dout + (row * width + column),
                  {.first = true, .last = true}, dq, dq + width, dq + 2 * width);
  });
}

void CpuKernels::GroupedAttentionForward(const GroupedAttentionShape& shape,
                                         const DropoutMask& mask, ConstReals q, ConstReals k,
                                         ConstReals v, float* scratch, Reals out,
                                         float* log_sum_exp) {
  const int64_t size = shape.head_size;
  const int64_t width = shape.heads * size;
  const int64_t width_of_keys = shape.heads_of_keys * size;
  const int64_t group = shape.heads / shape.heads_of_keys;
  const int64_t of_thread = TypedAttentionScratch(size, shape.seq_length, q.dtype());
  const HeadRows rows = {shape.seq_length, size, width, width_of_keys, width, shape.window};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t head = index % shape.heads;
    const int64_t at = row * width + head * size;
    const int64_t keys_at = row * width_of_keys + head / group * size;
    TypedAttention(rows, isa_, q.dtype(), scratch + thread * of_thread)
        .Forward(MaskOfHead(mask, index / shape.heads, head), q + at, k + keys_at, v + keys_at,
                 out + at, log_sum_exp + index * shape.seq_length);
  });
}

// The gradients of a head of keys are sums over its heads of queries: one thread's work, in order.
void CpuKernels::GroupedAttentionBackward(const GroupedAttentionShape& shape,
                                          const DropoutMask& mask, ConstReals q, ConstReals k,
                                          ConstReals v, ConstReals out, const float* log_sum_exp,
                                          ConstReals dout, float* scratch, Reals dq, Reals dk,
                                          Reals dv) {
  const int64_t size = shape.head_size;
  const int64_t width = shape.heads * size;
  const int64_t width_of_keys = shape.heads_of_keys * size;
  const int64_t group = shape.heads / shape.heads_of_keys;
  const int64_t of_thread = TypedAttentionScratch(size, shape.seq_length, q.dtype());
  const HeadRows rows = {shape.seq_length, size, width, width_of_keys, width, shape.window};
  pool_.ParallelFor(shape.batch * shape.heads_of_keys, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads_of_keys * shape.seq_length;
    const int64_t keys_at = row * width_of_keys + index % shape.heads_of_keys * size;
    const TypedAttention attention(rows, isa_, q.dtype(), scratch + thread * of_thread);
    for (int64_t member = 0; member < group; ++member) {
      const int64_t head = index % shape.heads_of_keys * group + member;
      const int64_t at = row * width + head * size;
      attention.Backward(
          MaskOfHead(mask, index / shape.heads_of_keys, head), q + at, k + keys_at, v + keys_at,
          out + at, log_sum_exp + (index * group + member) * shape.seq_length, dout + at,
          {.first = member == 0, .last = member + 1 == group}, dq + at, dk + keys_at, dv + keys_at);
    }
  });
}

// --- Loss

void CpuKernels::CrossEntropy(const HeadShape& shape, float gradient_scale, const int32_t* targets,
                              float* logits, double* losses) {
  pool_.ParallelFor(shape.rows, [&](int64_t row, int) {
    float* const of_row = logits + row * shape.stride;
    losses[row] = loops_.cross_entropy_row(shape.vocab_size, targets[row], of_row);
    if (gradient_scale != 1) loops_.scale(shape.vocab_size, gradient_scale, of_row);
  });
}

}  // namespace dsrun::worker
