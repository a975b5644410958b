// AdamWArguments: what Kernels::AdamW is told. Apart from kernels.h, since our loops include it and
// may include nothing else.

#ifndef DSRUN_WORKER_DEVICE_ADAMW_ARGUMENTS_H_
#define DSRUN_WORKER_DEVICE_ADAMW_ARGUMENTS_H_

namespace dsrun::worker {

// One update of AdamW (Loshchilov and Hutter, 2019), everything that changes from call to call. The
// corrections are multiplied by, as rounded reciprocals, which decides bits:
//   g = grad * grad_scale
//   m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g g
//   p = p - lr ((m (1 / bias_correction1)) / (sqrt(v (1 / bias_correction2)) + eps)
//              + weight_decay p)
struct AdamWArguments {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0;
  float bias_correction1 = 1;  // 1 - beta1^step
  float bias_correction2 = 1;  // 1 - beta2^step
  float grad_scale = 1;        // 1 / tokens, times the clipping factor
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_ADAMW_ARGUMENTS_H_
