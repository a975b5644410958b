#include "worker/device/cpu/cpu_kernels.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "common/model/layer_plan.h"
#include "common/numerics/kernels_version.h"
#include "worker/device/cpu/cpu_attention.h"
#include "worker/device/cpu/cpu_loops.h"

namespace dsrun::worker {
namespace {

// Sizes of the pieces that loops are cut into: large enough that handing one out costs nothing,
// whole leaves and cache lines. They decide no bits.
constexpr int64_t kElementPiece = 1 << 14;
constexpr int64_t kRowPiece = 8;
constexpr int64_t kColumnPiece = 192;
constexpr int64_t kVocabPieces = 16;
constexpr int64_t kLeafPiece = 64;

// The weight as (inputs, outputs), however it stands, and as (outputs, inputs).
Operand Weight(const LinearShape& shape, const float* w) {
  if (shape.order == WeightOrder::kOutputsInputs) return {w, shape.inputs, true};
  return {w, shape.outputs};
}
Operand WeightTransposed(const LinearShape& shape, const float* w) {
  if (shape.order == WeightOrder::kOutputsInputs) return {w, shape.inputs};
  return {w, shape.outputs, true};
}

}  // namespace

CpuKernels::CpuKernels(ThreadPool& pool, CpuIsa isa)
    : pool_(pool), isa_(isa), loops_(LoopsFor(isa)), matmul_(pool) {}

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

// --- Embedding

void CpuKernels::EmbeddingForward(const SequenceShape& shape, const int32_t* tokens,
                                  const float* token_table, const float* position_table,
                                  float* out) {
  const int64_t width = shape.width;
  ForPieces(shape.rows(), kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (position_table == nullptr) {
        std::copy_n(token_table + tokens[row] * width, width, out + row * width);
        continue;
      }
      loops_.add(width, token_table + tokens[row] * width,
                 position_table + row % shape.seq_length * width, out + row * width);
    }
  });
}

void CpuKernels::EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size,
                                   int64_t positions, const int32_t* tokens, const float* dout,
                                   float* dtoken_table, float* dposition_table) {
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
      loops_.accumulate(width, dout + row * width, dtoken_table + tokens[row] * width);
    }
  });
  ForPieces(wanted_positions, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t position = begin; position < end; ++position) {
      float* const sum = dposition_table + position * width;
      if (position >= shape.seq_length) {
        std::fill_n(sum, width, 0.0f);
        continue;
      }
      std::copy_n(dout + position * width, width, sum);
      for (int64_t sequence = 1; sequence < shape.batch; ++sequence) {
        loops_.accumulate(width, dout + (sequence * shape.seq_length + position) * width, sum);
      }
    }
  });
}

// --- Layernorm

void CpuKernels::LayerNormForward(int64_t rows, int64_t width, const float* x, const float* weight,
                                  const float* bias, float* out, float* mean, float* rstd) {
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loops_.layernorm_row(width, x + row * width, weight, bias, out + row * width, mean + row,
                           rstd + row);
    }
  });
}

void CpuKernels::LayerNormBackward(int64_t rows, int64_t width, const float* x, const float* weight,
                                   const float* mean, const float* rstd, const float* dout,
                                   const float* residual, float* dx, float* dweight, float* dbias) {
  const int64_t wanted = dweight == nullptr && dbias == nullptr ? 0 : width;
  ForPieces(wanted, kColumnPiece, [&](int64_t begin, int64_t end) {
    float unwanted[kColumnPiece];  // both come in one pass
    loops_.layernorm_column_sums(rows, end - begin, width, x + begin, mean, rstd, dout + begin,
                                 dweight == nullptr ? unwanted : dweight + begin,
                                 dbias == nullptr ? unwanted : dbias + begin);
  });
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      loops_.layernorm_backward_row(width, x + at, weight, mean[row], rstd[row], dout + at,
                                    residual == nullptr ? nullptr : residual + at, dx + at);
    }
  });
}

// --- Root mean square norm, rotary positions

void CpuKernels::RmsNormForward(int64_t rows, int64_t width, float epsilon, const float* x,
                                const float* weight, float* out, float* rstd) {
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      loops_.rmsnorm_row(width, epsilon, x + row * width, weight, out + row * width, rstd + row);
    }
  });
}

void CpuKernels::RmsNormBackward(int64_t rows, int64_t width, const float* x, const float* weight,
                                 const float* rstd, const float* dout, const float* residual,
                                 float* dx, float* dweight) {
  const int64_t wanted = dweight == nullptr ? 0 : width;
  ForPieces(wanted, kColumnPiece, [&](int64_t begin, int64_t end) {
    loops_.rmsnorm_column_sums(rows, end - begin, width, x + begin, rstd, dout + begin,
                               dweight + begin);
  });
  ForPieces(rows, kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      loops_.rmsnorm_backward_row(width, x + at, weight, rstd[row], dout + at,
                                  residual == nullptr ? nullptr : residual + at, dx + at);
    }
  });
}

void CpuKernels::Rotate(const RotaryShape& shape, const float* cosines, const float* sines,
                        float direction, float* x) {
  const int64_t pairs = shape.head_size / 2;
  ForPieces(shape.rows(), kRowPiece, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t position = row % shape.seq_length;
      loops_.rotate_row(shape.heads, pairs, cosines + position * pairs, sines + position * pairs,
                        direction, x + row * shape.heads * shape.head_size);
    }
  });
}

void CpuKernels::RotaryForward(const RotaryShape& shape, const float* cosines, const float* sines,
                               float* x) {
  Rotate(shape, cosines, sines, 1, x);
}

void CpuKernels::RotaryBackward(const RotaryShape& shape, const float* cosines, const float* sines,
                                float* dx) {
  Rotate(shape, cosines, sines, -1, dx);
}

// --- Linear layers

void CpuKernels::LinearForward(const LinearShape& shape, const float* x, const float* w,
                               const float* bias, float* out) {
  const int64_t n = shape.outputs;
  matmul_.Run(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out, n,
              TileWork::kLittle, [&](Range rows, Range columns) {
                if (bias == nullptr) return;
                for (int64_t row = rows.begin; row < rows.end; ++row) {
                  loops_.accumulate(columns.size(), bias + columns.begin,
                                    out + row * n + columns.begin);
                }
              });
}

void CpuKernels::LinearResidualForward(const LinearShape& shape, const float* x, const float* w,
                                       const float* bias, const float* residual, float* out) {
  const int64_t n = shape.outputs;
  matmul_.Run(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), out, n,
              TileWork::kSecondMatrix, [&](Range rows, Range columns) {
                for (int64_t row = rows.begin; row < rows.end; ++row) {
                  const int64_t at = row * n + columns.begin;
                  if (bias == nullptr) {
                    loops_.add(columns.size(), residual + at, out + at, out + at);
                    continue;
                  }
                  loops_.bias_residual(columns.size(), bias + columns.begin, residual + at,
                                       out + at);
                }
              });
}

void CpuKernels::LinearGeluForward(const LinearShape& shape, const float* x, const float* w,
                                   const float* bias, float* slope, float* out) {
  const int64_t n = shape.outputs;
  matmul_.Run(shape.rows, n, shape.inputs, {x, shape.inputs}, Weight(shape, w), slope, n,
              TileWork::kSecondMatrix, [&](Range rows, Range columns) {
                for (int64_t row = rows.begin; row < rows.end; ++row) {
                  const int64_t at = row * n + columns.begin;
                  loops_.bias_gelu(columns.size(), bias + columns.begin, slope + at, out + at);
                }
              });
}

void CpuKernels::LinearBackwardInput(const LinearShape& shape, const float* dout, const float* w,
                                     float* dx) {
  matmul_.Run(shape.rows, shape.inputs, shape.outputs, {dout, shape.outputs},
              WeightTransposed(shape, w), dx, shape.inputs);
}

void CpuKernels::AccumulateLinearBackwardInput(const LinearShape& shape, const float* dout,
                                               const float* w, float* dx) {
  matmul_.Add(shape.rows, shape.inputs, shape.outputs, {dout, shape.outputs},
              WeightTransposed(shape, w), dx, shape.inputs);
}

void CpuKernels::LinearBackwardInputGelu(const LinearShape& shape, const float* dout,
                                         const float* w, const float* slope, float* dpre) {
  const int64_t n = shape.inputs;
  matmul_.Run(shape.rows, n, shape.outputs, {dout, shape.outputs}, WeightTransposed(shape, w), dpre,
              n, TileWork::kSecondMatrix, [&](Range rows, Range columns) {
                for (int64_t row = rows.begin; row < rows.end; ++row) {
                  const int64_t at = row * n + columns.begin;
                  loops_.multiply(columns.size(), slope + at, dpre + at);
                }
              });
}

void CpuKernels::LinearBackwardWeight(const LinearShape& shape, const float* x, const float* dout,
                                      float* dw) {
  if (dw == nullptr) return;
  if (shape.order == WeightOrder::kOutputsInputs) {
    matmul_.Run(shape.outputs, shape.inputs, shape.rows, {dout, shape.outputs, true},
                {x, shape.inputs}, dw, shape.inputs);
    return;
  }
  matmul_.Run(shape.inputs, shape.outputs, shape.rows, {x, shape.inputs, true},
              {dout, shape.outputs}, dw, shape.outputs);
}

void CpuKernels::LinearBackwardBias(const LinearShape& shape, const float* dout, float* dbias) {
  if (dbias == nullptr) return;
  ForPieces(shape.outputs, kColumnPiece, [&](int64_t begin, int64_t end) {
    loops_.column_sums(shape.rows, end - begin, shape.outputs, dout + begin, dbias + begin);
  });
}

// --- Output head

void CpuKernels::HeadForward(const HeadShape& shape, const float* x, const float* token_table,
                             float* logits) {
  matmul_.Run(shape.rows, shape.vocab_size, shape.width, {x, shape.width},
              {token_table, shape.width, true}, logits, shape.stride);
}

void CpuKernels::HeadBackwardInput(const HeadShape& shape, const float* dlogits,
                                   const float* token_table, float* dx) {
  matmul_.Run(shape.rows, shape.width, shape.vocab_size, {dlogits, shape.stride},
              {token_table, shape.width}, dx, shape.width);
}

void CpuKernels::HeadBackwardWeight(const HeadShape& shape, const float* dlogits, const float* x,
                                    float* dtoken_table) {
  if (dtoken_table == nullptr) return;
  matmul_.Run(shape.vocab_size, shape.width, shape.rows, {dlogits, shape.stride, true},
              {x, shape.width}, dtoken_table, shape.width);
}

void CpuKernels::AccumulateHeadBackwardWeight(const HeadShape& shape, const float* dlogits,
                                              const float* x, float* dtoken_table) {
  if (dtoken_table == nullptr) return;
  matmul_.Add(shape.vocab_size, shape.width, shape.rows, {dlogits, shape.stride, true},
              {x, shape.width}, dtoken_table, shape.width);
}

// --- Elementwise

void CpuKernels::SwiGluForward(int64_t n, const float* gate, const float* up, float* out) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.swiglu(end - begin, gate + begin, up + begin, out + begin);
  });
}

void CpuKernels::SwiGluBackward(int64_t n, const float* gate, const float* up, const float* dout,
                                float* dgate, float* dup) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.swiglu_backward(end - begin, gate + begin, up + begin, dout + begin, dgate + begin,
                           dup + begin);
  });
}

void CpuKernels::Accumulate(int64_t n, const float* src, float* dst) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.accumulate(end - begin, src + begin, dst + begin);
  });
}

// --- Exact sums

// The greatest of all pieces, whichever comes last.
void CpuKernels::RunFixed(FixedLoop loop, int64_t n, int scale, const float* x, uint64_t* sums,
                          uint32_t* raised) {
  std::atomic<uint32_t> greatest = *raised;
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    const uint32_t magnitude = loop(end - begin, scale, x + begin, sums + begin);
    uint32_t seen = greatest.load();
    while (magnitude > seen && !greatest.compare_exchange_weak(seen, magnitude)) {
    }
  });
  *raised = greatest.load();
}

void CpuKernels::StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                            uint32_t* magnitude) {
  RunFixed(loops_.store_fixed, n, scale, x, sums, magnitude);
}

void CpuKernels::AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                                 uint32_t* magnitude) {
  RunFixed(loops_.accumulate_fixed, n, scale, x, sums, magnitude);
}

void CpuKernels::AccumulateSums(int64_t n, const uint64_t* src, uint64_t* dst) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.accumulate_sums(end - begin, src + begin, dst + begin);
  });
}

void CpuKernels::RoundFixed(int64_t n, int scale, const uint64_t* sums, float* out) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.round_fixed(end - begin, scale, sums + begin, out + begin);
  });
}

// --- Attention

int64_t CpuKernels::AttentionScratch(const SequenceShape& shape) const {
  return pool_.threads() * dsrun::AttentionScratch(shape.head_size());
}

void CpuKernels::AttentionForward(const SequenceShape& shape, const float* qkv, float* scratch,
                                  float* out, float* log_sum_exp) {
  const int64_t width = shape.width;
  const HeadRows rows = {shape.seq_length, shape.head_size(), 3 * width, 3 * width, width, 0};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t column = index % shape.heads * shape.head_size();
    const float* const q = qkv + row * 3 * width + column;
    HeadAttention(rows, isa_, scratch + thread * dsrun::AttentionScratch(shape.head_size()))
        .Forward(q, q + width, q + 2 * width, out + row * width + column,
                 log_sum_exp + index * shape.seq_length);
  });
}

void CpuKernels::AttentionBackward(const SequenceShape& shape, const float* qkv, const float* out,
                                   const float* log_sum_exp, const float* dout, float* scratch,
                                   float* dqkv) {
  const int64_t width = shape.width;
  const HeadRows rows = {shape.seq_length, shape.head_size(), 3 * width, 3 * width, width, 0};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t column = index % shape.heads * shape.head_size();
    const float* const q = qkv + row * 3 * width + column;
    float* const dq = dqkv + row * 3 * width + column;
    HeadAttention(rows, isa_, scratch + thread * dsrun::AttentionScratch(shape.head_size()))
        .Backward(q, q + width, q + 2 * width, out + row * width + column,
                  log_sum_exp + index * shape.seq_length, dout + row * width + column,
                  /*first_of_keys=*/true, dq, dq + width, dq + 2 * width);
  });
}

void CpuKernels::GroupedAttentionForward(const GroupedAttentionShape& shape, const float* q,
                                         const float* k, const float* v, float* scratch, float* out,
                                         float* log_sum_exp) {
  const int64_t size = shape.head_size;
  const int64_t width = shape.heads * size;
  const int64_t width_of_keys = shape.heads_of_keys * size;
  const int64_t group = shape.heads / shape.heads_of_keys;
  const HeadRows rows = {shape.seq_length, size, width, width_of_keys, width, shape.window};
  pool_.ParallelFor(shape.batch * shape.heads, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads * shape.seq_length;
    const int64_t head = index % shape.heads;
    const int64_t at = row * width + head * size;
    const int64_t keys_at = row * width_of_keys + head / group * size;
    HeadAttention(rows, isa_, scratch + thread * dsrun::AttentionScratch(size))
        .Forward(q + at, k + keys_at, v + keys_at, out + at,
                 log_sum_exp + index * shape.seq_length);
  });
}

// The gradients of a head of keys are sums over its heads of queries: one thread's work, in order.
void CpuKernels::GroupedAttentionBackward(const GroupedAttentionShape& shape, const float* q,
                                          const float* k, const float* v, const float* out,
                                          const float* log_sum_exp, const float* dout,
                                          float* scratch, float* dq, float* dk, float* dv) {
  const int64_t size = shape.head_size;
  const int64_t width = shape.heads * size;
  const int64_t width_of_keys = shape.heads_of_keys * size;
  const int64_t group = shape.heads / shape.heads_of_keys;
  const HeadRows rows = {shape.seq_length, size, width, width_of_keys, width, shape.window};
  pool_.ParallelFor(shape.batch * shape.heads_of_keys, [&](int64_t index, int thread) {
    const int64_t row = index / shape.heads_of_keys * shape.seq_length;
    const int64_t keys_at = row * width_of_keys + index % shape.heads_of_keys * size;
    const HeadAttention attention(rows, isa_, scratch + thread * dsrun::AttentionScratch(size));
    for (int64_t member = 0; member < group; ++member) {
      const int64_t at = row * width + (index % shape.heads_of_keys * group + member) * size;
      attention.Backward(q + at, k + keys_at, v + keys_at, out + at,
                         log_sum_exp + (index * group + member) * shape.seq_length, dout + at,
                         /*first_of_keys=*/member == 0, dq + at, dk + keys_at, dv + keys_at);
    }
  });
}

// --- Loss, optimizer

void CpuKernels::CrossEntropy(const HeadShape& shape, const int32_t* targets, float* logits,
                              double* losses) {
  pool_.ParallelFor(shape.rows, [&](int64_t row, int) {
    losses[row] =
        loops_.cross_entropy_row(shape.vocab_size, targets[row], logits + row * shape.stride);
  });
}

void CpuKernels::AdamW(int64_t n, const AdamWArguments& arguments, const float* grad, float* param,
                       float* m, float* v) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.adamw(end - begin, arguments, grad + begin, param + begin, m + begin, v + begin);
  });
}

void CpuKernels::Adam(int64_t n, const AdamWArguments& arguments, const float* grad, float* param,
                      float* m, float* v) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.adam(end - begin, arguments, grad + begin, param + begin, m + begin, v + begin);
  });
}

void CpuKernels::LambDirection(int64_t n, const AdamWArguments& arguments, const float* param,
                               float* grad, float* m, float* v) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.lamb_direction(end - begin, arguments, param + begin, grad + begin, m + begin,
                          v + begin);
  });
}

void CpuKernels::Descend(int64_t n, float rate, const float* direction, float* param) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.descend(end - begin, rate, direction + begin, param + begin);
  });
}

void CpuKernels::Lion(int64_t n, const LionArguments& arguments, const float* grad, float* param,
                      float* m) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.lion(end - begin, arguments, grad + begin, param + begin, m + begin);
  });
}

void CpuKernels::Adagrad(int64_t n, const AdagradArguments& arguments, const float* grad,
                         float* param, float* sum) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.adagrad(end - begin, arguments, grad + begin, param + begin, sum + begin);
  });
}

void CpuKernels::Sgd(int64_t n, const SgdArguments& arguments, const float* grad, float* param) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.sgd(end - begin, arguments, grad + begin, param + begin);
  });
}

void CpuKernels::SgdMomentum(int64_t n, const SgdArguments& arguments, const float* grad,
                             float* param, float* buffer) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.sgd_momentum(end - begin, arguments, grad + begin, param + begin, buffer + begin);
  });
}

void CpuKernels::MuonMomentum(int64_t n, const MuonArguments& arguments, float* grad, float* m) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.muon_momentum(end - begin, arguments, grad + begin, m + begin);
  });
}

void CpuKernels::DescendAndDecay(int64_t n, float rate, float decay, const float* direction,
                                 float* param) {
  ForPieces(n, kElementPiece, [&](int64_t begin, int64_t end) {
    loops_.descend_and_decay(end - begin, rate, decay, direction + begin, param + begin);
  });
}

void CpuKernels::Scale(int64_t n, float factor, float* x) {
  ForPieces(n, kElementPiece,
            [&](int64_t begin, int64_t end) { loops_.scale(end - begin, factor, x + begin); });
}

void CpuKernels::MatrixProduct(const ProductShape& shape, const float* a, const float* b,
                               float* out) {
  const Operand left{a, shape.a_transposed ? shape.rows : shape.inner, shape.a_transposed};
  const Operand right{b, shape.b_transposed ? shape.inner : shape.columns, shape.b_transposed};
  matmul_.Run(shape.rows, shape.columns, shape.inner, left, right, out, shape.columns);
}

void CpuKernels::MatrixPolynomial(int64_t size, const Quadratic& of, const float* x, float* out) {
  matmul_.Run(size, size, size, {x, size}, {x, size}, out, size, TileWork::kSecondMatrix,
              [&](Range rows, Range columns) {
                for (int64_t row = rows.begin; row < rows.end; ++row) {
                  const int64_t at = row * size + columns.begin;
                  loops_.combine(columns.size(), of.c, of.b, x + at, out + at);
                  if (row >= columns.begin && row < columns.end) out[row * size + row] += of.a;
                }
              });
}

void CpuKernels::LeafSquares(int64_t leaves, const float* x, double* squares) {
  ForPieces(leaves, kLeafPiece, [&](int64_t begin, int64_t end) {
    loops_.leaf_squares(end - begin, x + begin * 1024, squares + begin);
  });
}

}  // namespace dsrun::worker
