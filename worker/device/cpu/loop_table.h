// LoopTable: the signatures of our vectorised loops (cpu_loops.h says what they are). No includes
// but <stdint.h>: this header is compiled with instructions that not every CPU has.

#ifndef DSRUN_WORKER_DEVICE_CPU_LOOP_TABLE_H_
#define DSRUN_WORKER_DEVICE_CPU_LOOP_TABLE_H_

#include <stdint.h>

namespace dsrun::worker {

struct AdamWArguments;  // adamw_arguments.h
struct LionArguments;   // optimizer_arguments.h
struct AdagradArguments;
struct SgdArguments;
struct MuonArguments;

// Which elements of a row are dropped (common/numerics/dropout.h); `column`: where the array begins
// in its row.
struct RowMask {
  uint32_t key[2];
  uint32_t threshold;
  float scale;
  int64_t row;  // of its sample
  int64_t column;
};

// Loops over arrays of the type that a model computes in (reals.h), void* here: one table for each
// type. Elements are loaded as floats and rounded once, where they are stored. What is float* is
// fp32 always.
struct RealLoops {
  // --- n elements
  void (*round)(int64_t n, const float* x, void* out);         // out may be x
  void (*widen)(int64_t n, const void* x, float* out);         // out may be x
  void (*round_widen)(int64_t n, const float* x, float* out);  // as both, one after the other
  void (*add)(int64_t n, const void* a, const void* b, void* out);
  void (*accumulate)(int64_t n, const void* src, float* dst);  // dst += src
  // What follows a matrix product; x is its result, which out or slope may be:
  // out = x + bias
  void (*bias)(int64_t n, const void* bias, const float* x, void* out);
  // out = residual + x; out may also be residual
  void (*residual)(int64_t n, const void* residual, const float* x, void* out);
  // out = residual + (x + bias)
  void (*bias_residual)(int64_t n, const void* bias, const void* residual, const float* x,
                        void* out);
  // out = residual + dropped(x), and with a bias; dropped(y) is y scale where it is kept, else 0
  void (*drop_residual)(int64_t n, const RowMask& mask, const void* residual, const float* x,
                        void* out);
  void (*bias_drop_residual)(int64_t n, const RowMask& mask, const void* bias, const void* residual,
                             const float* x, void* out);
  // out = gelu(x + bias), slope = gelu'(x + bias)
  void (*bias_gelu)(int64_t n, const void* bias, const float* x, void* slope, void* out);
  // out = x * factors
  void (*multiply)(int64_t n, const void* factors, const float* x, void* out);
  // out = dropped(x); out may be x
  void (*drop)(int64_t n, const RowMask& mask, const void* x, void* out);
  // out = silu(gate) up, and its gradients; dgate may be dout.
  void (*swiglu)(int64_t n, const void* gate, const void* up, void* out);
  void (*swiglu_backward)(int64_t n, const void* gate, const void* up, const void* dout,
                          void* dgate, void* dup);

  // --- one row
  void (*layernorm_row)(int64_t width, const void* x, const void* weight, const void* bias,
                        void* out, float* mean, float* rstd);
  // residual may be null; dx may be residual.
  void (*layernorm_backward_row)(int64_t width, const void* x, const void* weight, float mean,
                                 float rstd, const void* dout, const void* residual, void* dx);
  void (*rmsnorm_row)(int64_t width, float epsilon, const void* x, const void* weight, void* out,
                      float* rstd);
  // residual may be null; dx may be dout or residual.
  void (*rmsnorm_backward_row)(int64_t width, const void* x, const void* weight, float rstd,
                               const void* dout, const void* residual, void* dx);
  // x (heads, 2 pairs), in place; direction 1 or -1.
  void (*rotate_row)(int64_t heads, int64_t pairs, const float* cosines, const float* sines,
                     float direction, void* x);

  // --- column sums, rows in order; a row begins every `stride` elements
  void (*column_sums)(int64_t rows, int64_t columns, int64_t stride, const void* x, float* sums);
  void (*layernorm_column_sums)(int64_t rows, int64_t columns, int64_t stride, const void* x,
                                const float* mean, const float* rstd, const void* dout,
                                float* dweight, float* dbias);
  void (*rmsnorm_column_sums)(int64_t rows, int64_t columns, int64_t stride, const void* x,
                              const float* rstd, const void* dout, float* dweight);
};

struct LoopTable {
  RealLoops f32, bf16, f16;

  // --- n elements
  void (*scale)(int64_t n, float factor, float* x);
  void (*adamw)(int64_t n, const AdamWArguments& arguments, const float* grad, float* param,
                float* m, float* v);
  void (*adam)(int64_t n, const AdamWArguments& arguments, const float* grad, float* param,
               float* m, float* v);
  void (*lamb_direction)(int64_t n, const AdamWArguments& arguments, const float* param,
                         float* grad, float* m, float* v);
  void (*descend)(int64_t n, float rate, const float* direction, float* param);
  void (*lion)(int64_t n, const LionArguments& arguments, const float* grad, float* param,
               float* m);
  void (*adagrad)(int64_t n, const AdagradArguments& arguments, const float* grad, float* param,
                  float* sum);
  void (*sgd)(int64_t n, const SgdArguments& arguments, const float* grad, float* param);
  void (*sgd_momentum)(int64_t n, const SgdArguments& arguments, const float* grad, float* param,
                       float* buffer);
  void (*muon_momentum)(int64_t n, const MuonArguments& arguments, float* grad, float* m);
  void (*descend_and_decay)(int64_t n, float rate, float decay, const float* direction,
                            float* param);
  // x = of_x x + of_y y
  void (*combine)(int64_t n, float of_x, float of_y, const float* y, float* x);
  void (*leaf_squares)(int64_t leaves, const float* x, double* squares);
  float (*dot)(int64_t n, const float* a, const float* b);

  // --- Exact sums (Kernels::StoreFixed and its neighbours)
  uint32_t (*store_fixed)(int64_t n, int scale, const float* x, uint64_t* sums);
  uint32_t (*accumulate_fixed)(int64_t n, int scale, const float* x, uint64_t* sums);
  void (*accumulate_sums)(int64_t n, const uint64_t* src, uint64_t* dst);  // dst += src
  void (*round_fixed)(int64_t n, int scale, const uint64_t* sums, float* out);

  // --- one row: logits become (softmax - onehot(target)); the row's loss.
  double (*cross_entropy_row)(int64_t vocab_size, int32_t target, float* logits);
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_CPU_LOOP_TABLE_H_
