// Kernels: the one list of operations that a model and its optimizer are made of. Each backend
// implements all of them: cpu_kernels (matrix products by oneDNN, our vectorised loops around
// them).
//
// Rules, for every method unless it says otherwise:
//   - It OVERWRITES its outputs. Only methods whose name begins with Accumulate add to them.
//   - Outputs do not overlap inputs, except where "in place" is said.
//   - Arrays are dense and row-major; `rows` counts tokens (batch x sequence). Nothing is
//   allocated;
//     scratch comes in as an argument.
//   - The gradient of a parameter (dw, dbias, dweight, a table's) may be null, where it is not
//     wanted: nothing is computed for it, and all else has the same bits.
//   - Reals (reals.h) are of the type that the model computes in, all of one call of the same. What
//     is float* is fp32 whatever that is: statistics, logits, gradients of parameters, optimizers.
//     Whatever a method adds up, it adds up in fp32, and rounds once, where it stores.
//   - Output bits depend on the arguments alone: never on thread count, and, outside matrix
//     products, never on the instruction set (docs/numerics.md, rules a, d, k).
//
// Threads: one thread at a time per Kernels object. Calls enqueue on its stream (stream.h): what
// they read and write belongs to them until an event that was recorded afterwards is reached.

#ifndef DSRUN_WORKER_DEVICE_KERNELS_H_
#define DSRUN_WORKER_DEVICE_KERNELS_H_

#include <cstdint>

#include "common/numerics/dropout.h"
#include "common/numerics/fingerprint.h"
#include "worker/device/adamw_arguments.h"
#include "worker/device/optimizer_arguments.h"
#include "worker/device/reals.h"
#include "worker/device/stream.h"

namespace dsrun::worker {

// (batch, seq_length, width) of the activations, heads * head_size == width.
struct SequenceShape {
  int64_t batch = 0;
  int64_t seq_length = 0;
  int64_t width = 0;
  int64_t heads = 1;
  int64_t rows() const { return batch * seq_length; }
  int64_t head_size() const { return width / heads; }
};

// y (rows, outputs) = x (rows, inputs) * w. A weight and its gradient stand in memory as (inputs,
// outputs), or as (outputs, inputs): the methods say (inputs, outputs) for both.
enum class WeightOrder { kInputsOutputs, kOutputsInputs };
struct LinearShape {
  int64_t rows = 0;
  int64_t inputs = 0;
  int64_t outputs = 0;
  WeightOrder order = WeightOrder::kInputsOutputs;
};

// Queries of `heads` heads, keys and values of `heads_of_keys`, of which each serves heads /
// heads_of_keys consecutive heads of queries. window > 0: a query sees so many keys, itself the
// last.
struct GroupedAttentionShape {
  int64_t batch = 0;
  int64_t seq_length = 0;
  int64_t heads = 1;
  int64_t heads_of_keys = 1;
  int64_t head_size = 0;
  int64_t window = 0;
  int64_t rows() const { return batch * seq_length; }
};

// (batch, seq_length, heads, head_size); head_size is even.
struct RotaryShape {
  int64_t batch = 0;
  int64_t seq_length = 0;
  int64_t heads = 1;
  int64_t head_size = 0;
  int64_t rows() const { return batch * seq_length; }
};

// The tied output head. A row of logits begins every `stride` elements, stride >= vocab_size; what
// lies between is never read nor written.
struct HeadShape {
  int64_t rows = 0;
  int64_t width = 0;
  int64_t vocab_size = 0;
  int64_t stride = 0;
};

// A product of whole matrices, (rows, inner) by (inner, columns). An operand that is transposed
// stands in memory as (inner, rows), or (columns, inner).
struct ProductShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  bool a_transposed = false;
  bool b_transposed = false;
};

// a I + b x + c x x
struct Quadratic {
  float a = 0;
  float b = 0;
  float c = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  // Where they run.
  virtual Stream& stream() = 0;

  // What decides the bits: library and version, instruction set, tile sizes, code version; all of
  // the numerics fingerprint (docs/numerics.md, rule i) but how sums over the batch are made, which
  // the job knows.
  virtual NumericsFingerprint Fingerprint() const = 0;

  // --- Embedding: out = token_table[token] + position_table[position]. Without positions
  // `position_table` and its gradient are null, and out = token_table[token].

  virtual void EmbeddingForward(const SequenceShape& shape,
                                const int32_t* tokens,      // (batch, seq_length)
                                ConstReals token_table,     // (vocab_size, width)
                                ConstReals position_table,  // (>= seq_length, width) or null
                                Reals out) = 0;             // (rows, width)
  // Tokens are added in order. Positions from seq_length up get zeros.
  virtual void EmbeddingBackward(const SequenceShape& shape, int64_t vocab_size, int64_t positions,
                                 const int32_t* tokens,        // (batch, seq_length)
                                 ConstReals dout,              // (rows, width)
                                 float* dtoken_table,          // (vocab_size, width)
                                 float* dposition_table) = 0;  // (positions, width) or null

  // --- Layernorm over the last dimension, epsilon 1e-5.

  virtual void LayerNormForward(int64_t rows, int64_t width,
                                ConstReals x,       // (rows, width)
                                ConstReals weight,  // (width)
                                ConstReals bias,    // (width)
                                Reals out,          // (rows, width)
                                float* mean,        // (rows)
                                float* rstd) = 0;   // (rows)
  // dx = (gradient through the layernorm) + residual. `residual` may be null (nothing is added) and
  // may be dx itself (in place).
  virtual void LayerNormBackward(int64_t rows, int64_t width,
                                 ConstReals x,         // (rows, width)
                                 ConstReals weight,    // (width)
                                 const float* mean,    // (rows)
                                 const float* rstd,    // (rows)
                                 ConstReals dout,      // (rows, width)
                                 ConstReals residual,  // (rows, width) or null
                                 Reals dx,             // (rows, width)
                                 float* dweight,       // (width)
                                 float* dbias) = 0;    // (width)

  // --- Root mean square norm (Zhang and Sennrich, 2019) over the last dimension: out = weight * (x
  // * rstd), rstd = 1 / sqrt(mean(x^2) + epsilon). `rows` may count heads of tokens.

  virtual void RmsNormForward(int64_t rows, int64_t width, float epsilon,
                              ConstReals x,       // (rows, width)
                              ConstReals weight,  // (width)
                              Reals out,          // (rows, width)
                              float* rstd) = 0;   // (rows)
  // dx = (gradient through the norm) + residual. `residual` may be null (nothing is added); dx may
  // be it or dout (in place).
  virtual void RmsNormBackward(int64_t rows, int64_t width,
                               ConstReals x,         // (rows, width)
                               ConstReals weight,    // (width)
                               const float* rstd,    // (rows)
                               ConstReals dout,      // (rows, width)
                               ConstReals residual,  // (rows, width) or null
                               Reals dx,             // (rows, width)
                               float* dweight) = 0;  // (width)

  // --- Rotary positions (Su et al., 2021), in place: channel i of a head and channel i + head_size
  // / 2 turn by the angle of (position, i), whose cosine and sine come in.

  virtual void RotaryForward(const RotaryShape& shape,
                             const float* cosines,  // (>= seq_length, head_size / 2)
                             const float* sines,    // (>= seq_length, head_size / 2)
                             Reals x) = 0;          // (rows, heads, head_size), in place
  virtual void RotaryBackward(const RotaryShape& shape,
                              const float* cosines,  // (>= seq_length, head_size / 2)
                              const float* sines,    // (>= seq_length, head_size / 2)
                              Reals dx) = 0;         // (rows, heads, head_size), in place

  // --- Linear layers.

  // out = x w + bias. `bias` may be null.
  virtual void LinearForward(const LinearShape& shape,
                             ConstReals x,     // (rows, inputs)
                             ConstReals w,     // (inputs, outputs)
                             ConstReals bias,  // (outputs) or null
                             Reals out) = 0;   // (rows, outputs)
  // out = residual + (x w + bias). `bias` may be null.
  virtual void LinearResidualForward(const LinearShape& shape,
                                     ConstReals x,         // (rows, inputs)
                                     ConstReals w,         // (inputs, outputs)
                                     ConstReals bias,      // (outputs) or null
                                     ConstReals residual,  // (rows, outputs)
                                     Reals out) = 0;       // (rows, outputs)
  // out = residual + dropped(x w + bias), with a mask of rows of `rows_of_sample` each. `bias` may
  // be null. A mask that drops nothing gives the bits of LinearResidualForward.
  virtual void LinearDropoutResidualForward(const LinearShape& shape, int64_t rows_of_sample,
                                            const DropoutMask& mask,
                                            ConstReals x,         // (rows, inputs)
                                            ConstReals w,         // (inputs, outputs)
                                            ConstReals bias,      // (outputs) or null
                                            ConstReals residual,  // (rows, outputs)
                                            Reals out) = 0;       // (rows, outputs)
  // With pre = x w + bias: out = gelu(pre), in its tanh form (Hendrycks and Gimpel, 2016), and
  // slope = gelu'(pre), all that backward needs: the exponential is computed once.
  virtual void LinearGeluForward(const LinearShape& shape,
                                 ConstReals x,     // (rows, inputs)
                                 ConstReals w,     // (inputs, outputs)
                                 ConstReals bias,  // (outputs)
                                 Reals slope,      // (rows, outputs)
                                 Reals out) = 0;   // (rows, outputs)
  // dx = dout w^T.
  virtual void LinearBackwardInput(const LinearShape& shape,
                                   ConstReals dout,  // (rows, outputs)
                                   ConstReals w,     // (inputs, outputs)
                                   Reals dx) = 0;    // (rows, inputs)
  // dx += dout w^T. The sum is fp32, and rounded.
  virtual void AccumulateLinearBackwardInput(const LinearShape& shape,
                                             ConstReals dout,  // (rows, outputs)
                                             ConstReals w,     // (inputs, outputs)
                                             Reals dx) = 0;    // (rows, inputs)
  // dpre = (dout w^T) * slope: backward of a linear layer whose input was gelu(pre).
  virtual void LinearBackwardInputGelu(const LinearShape& shape,
                                       ConstReals dout,   // (rows, outputs)
                                       ConstReals w,      // (inputs, outputs)
                                       ConstReals slope,  // (rows, inputs)
                                       Reals dpre) = 0;   // (rows, inputs)
  // dw = x^T dout.
  virtual void LinearBackwardWeight(const LinearShape& shape,
                                    ConstReals x,     // (rows, inputs)
                                    ConstReals dout,  // (rows, outputs)
                                    float* dw) = 0;   // (inputs, outputs)
  // dbias = column sums of dout, rows in order.
  virtual void LinearBackwardBias(const LinearShape& shape,
                                  ConstReals dout,    // (rows, outputs)
                                  float* dbias) = 0;  // (outputs)

  // --- Output head: a table with a row for each token of the vocabulary, that of the embedding or
  // another.

  // logits = x token_table^T.
  virtual void HeadForward(const HeadShape& shape,
                           ConstReals x,            // (rows, width)
                           ConstReals token_table,  // (vocab_size, width)
                           float* logits) = 0;      // (rows, stride)
  // dx = dlogits token_table; here and below dlogits are rounded to the type of the other factor.
  virtual void HeadBackwardInput(const HeadShape& shape,
                                 const float* dlogits,    // (rows, stride)
                                 ConstReals token_table,  // (vocab_size, width)
                                 Reals dx) = 0;           // (rows, width)
  // dtoken_table = dlogits^T x.
  virtual void HeadBackwardWeight(const HeadShape& shape,
                                  const float* dlogits,      // (rows, stride)
                                  ConstReals x,              // (rows, width)
                                  float* dtoken_table) = 0;  // (vocab_size, width)
  // dtoken_table += dlogits^T x.
  virtual void AccumulateHeadBackwardWeight(const HeadShape& shape,
                                            const float* dlogits,      // (rows, stride)
                                            ConstReals x,              // (rows, width)
                                            float* dtoken_table) = 0;  // (vocab_size, width)

  // --- Elementwise.

  // out = silu(gate) * up, silu(x) = x / (1 + e^-x) (SwiGLU: Shazeer, 2020).
  virtual void SwiGluForward(int64_t n,
                             ConstReals gate,  // (n)
                             ConstReals up,    // (n)
                             Reals out) = 0;   // (n)
  virtual void SwiGluBackward(int64_t n,
                              ConstReals gate,  // (n)
                              ConstReals up,    // (n)
                              ConstReals dout,  // (n)
                              Reals dgate,      // (n), may be dout (in place)
                              Reals dup) = 0;   // (n)

  // out = x times the scale where the mask keeps it, elsewhere 0 (common/numerics/dropout.h); may
  // be in place. It is its own gradient: dx is this of dout, with the same mask.
  virtual void Dropout(const SequenceShape& shape, const DropoutMask& mask,
                       ConstReals x,    // (rows, width)
                       Reals out) = 0;  // (rows, width)

  // dst += src.
  virtual void Accumulate(int64_t n, const float* src, float* dst) = 0;
  // out = x, rounded to the type of `out`.
  virtual void Cast(int64_t n, const float* x, Reals out) = 0;

  // --- Exact sums (docs/numerics.md): x * 2^scale, rounded to the nearest integer (ties to even),
  // added up in 64 bits. The sums are int64 in two's complement; they wrap where they do not fit,
  // which the caller sees by the magnitudes. |scale| <= 1022. Subnormal x count as 0.
  //
  // The first two raise `magnitude`, one number, to the greatest |x| as the bits of that float: 0
  // if all are 0, 0x7f800000 and more if one is infinite or NaN.

  // sums = x in fixed point.
  virtual void StoreFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                          uint32_t* magnitude) = 0;
  // sums += x in fixed point.
  virtual void AccumulateFixed(int64_t n, int scale, const float* x, uint64_t* sums,
                               uint32_t* magnitude) = 0;
  // dst += src.
  virtual void AccumulateSums(int64_t n, const uint64_t* src, uint64_t* dst) = 0;
  // out = sums * 2^-scale, rounded once; below the normal floats it is 0.
  virtual void RoundFixed(int64_t n, int scale, const uint64_t* sums, float* out) = 0;

  // --- Causal attention, softmax(q k^T / sqrt(head_size)) v per head, in tiles with a running
  // softmax (Milakov and Gimelshein, 2018; Dao et al., 2022). qkv holds q, k, v side by side.
  // Probabilities are dropped by the mask, after they were divided by their sum; log_sum_exp knows
  // nothing of it, and backward makes the same mask again.

  // Floats of scratch that the two methods need for arrays of `dtype`.
  virtual int64_t AttentionScratch(const SequenceShape& shape, DType dtype) const = 0;
  virtual void AttentionForward(const SequenceShape& shape, const DropoutMask& mask,
                                ConstReals qkv,           // (rows, 3 width)
                                float* scratch,           // (AttentionScratch)
                                Reals out,                // (rows, width)
                                float* log_sum_exp) = 0;  // (batch, heads, seq_length)
  virtual void AttentionBackward(const SequenceShape& shape, const DropoutMask& mask,
                                 ConstReals qkv,            // (rows, 3 width)
                                 ConstReals out,            // (rows, width)
                                 const float* log_sum_exp,  // (batch, heads, seq_length)
                                 ConstReals dout,           // (rows, width)
                                 float* scratch,            // (AttentionScratch)
                                 Reals dqkv) = 0;           // (rows, 3 width)

  // The same for queries, keys and values that stand apart, each dense. Scratch: that of a
  // SequenceShape with as many heads of the same size.
  virtual void GroupedAttentionForward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                                       ConstReals q,             // (rows, heads, head_size)
                                       ConstReals k,             // (rows, heads_of_keys, head_size)
                                       ConstReals v,             // (rows, heads_of_keys, head_size)
                                       float* scratch,           // (AttentionScratch)
                                       Reals out,                // (rows, heads, head_size)
                                       float* log_sum_exp) = 0;  // (batch, heads, seq_length)
  virtual void GroupedAttentionBackward(const GroupedAttentionShape& shape, const DropoutMask& mask,
                                        ConstReals q,    // (rows, heads, head_size)
                                        ConstReals k,    // (rows, heads_of_keys, head_size)
                                        ConstReals v,    // (rows, heads_of_keys, head_size)
                                        ConstReals out,  // (rows, heads, head_size)
                                        const float* log_sum_exp,  // (batch, heads, seq_length)
                                        ConstReals dout,           // (rows, heads, head_size)
                                        float* scratch,            // (AttentionScratch)
                                        Reals dq,                  // (rows, heads, head_size)
                                        Reals dk,       // (rows, heads_of_keys, head_size)
                                        Reals dv) = 0;  // (rows, heads_of_keys, head_size)

  // --- Cross-entropy, forward and backward at once. In place: logits become dlogits = softmax -
  // onehot(target), times `gradient_scale`, a power of two. A row whose target is below 0 is
  // masked: loss 0, gradient 0.
  virtual void CrossEntropy(const HeadShape& shape, float gradient_scale,
                            const int32_t* targets,  // (rows)
                            float* logits,           // (rows, stride), in place
                            double* losses) = 0;     // (rows), nats

  // --- Optimizer, over contiguous ranges.

  // One fused pass; param, m, v in place.
  virtual void AdamW(int64_t n, const AdamWArguments& arguments,
                     const float* grad,  // (n)
                     float* param,       // (n)
                     float* m,           // (n)
                     float* v) = 0;      // (n)
  // Adam (Kingma and Ba, 2015): as AdamW, but decay is part of the gradient, g + weight_decay p.
  virtual void Adam(int64_t n, const AdamWArguments& arguments,
                    const float* grad,  // (n)
                    float* param,       // (n)
                    float* m,           // (n)
                    float* v) = 0;      // (n)
  // The first half of LAMB (You et al., 2020, algorithm 2): AdamW's moments, and instead of the
  // step its direction, without lr, in place of the gradient. Descend is the second half.
  virtual void LambDirection(int64_t n, const AdamWArguments& arguments,
                             const float* param,  // (n)
                             float* grad,         // (n), becomes the direction
                             float* m,            // (n)
                             float* v) = 0;       // (n)
  // param = param - rate direction
  virtual void Descend(int64_t n, float rate,
                       const float* direction,  // (n)
                       float* param) = 0;       // (n)
  virtual void Lion(int64_t n, const LionArguments& arguments,
                    const float* grad,  // (n)
                    float* param,       // (n)
                    float* m) = 0;      // (n)
  virtual void Adagrad(int64_t n, const AdagradArguments& arguments,
                       const float* grad,  // (n)
                       float* param,       // (n)
                       float* sum) = 0;    // (n)
  // The first without momentum, the second with it.
  virtual void Sgd(int64_t n, const SgdArguments& arguments,
                   const float* grad,  // (n)
                   float* param) = 0;  // (n)
  virtual void SgdMomentum(int64_t n, const SgdArguments& arguments,
                           const float* grad,   // (n)
                           float* param,        // (n)
                           float* buffer) = 0;  // (n)
  // Muon's (worker/optim/newton_schulz.h has what is between the two): the momentum, and in place
  // of the gradient what is orthogonalised; then the step, param = param - (rate direction + decay
  // param).
  virtual void MuonMomentum(int64_t n, const MuonArguments& arguments,
                            float* grad,    // (n), becomes the update
                            float* m) = 0;  // (n)
  virtual void DescendAndDecay(int64_t n, float rate, float decay,
                               const float* direction,  // (n)
                               float* param) = 0;       // (n)
  // x = factor x, in place.
  virtual void Scale(int64_t n, float factor, float* x) = 0;  // (n)
  virtual void MatrixProduct(const ProductShape& shape,
                             const float* a,   // (rows, inner)
                             const float* b,   // (inner, columns)
                             float* out) = 0;  // (rows, columns)
  virtual void MatrixPolynomial(int64_t size, const Quadratic& of,
                                const float* x,   // (size, size)
                                float* out) = 0;  // (size, size)
  // Sum of squares of each leaf (1,024 elements), in 16 fixed lanes in double precision.
  virtual void LeafSquares(int64_t leaves,
                           const float* x,        // (leaves, 1024)
                           double* squares) = 0;  // (leaves)
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_KERNELS_H_
