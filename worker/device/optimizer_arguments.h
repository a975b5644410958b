// What the kernels of optimizers other than AdamW are told; Adam and LAMB take AdamWArguments.
// Apart from kernels.h, since our loops include it and may include nothing else.
//
// In all of them g = grad * grad_scale, and every product and sum is rounded to fp32 once.

#ifndef DSRUN_WORKER_DEVICE_OPTIMIZER_ARGUMENTS_H_
#define DSRUN_WORKER_DEVICE_OPTIMIZER_ARGUMENTS_H_

namespace dsrun::worker {

// Lion (Chen et al., 2023, algorithm 2); the sign of 0 is 0:
//   p = p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p)
//   m = beta2 m + (1 - beta2) g
struct LionArguments {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.99f;
  float weight_decay = 0;
  float grad_scale = 1;
};

// Adagrad (Duchi et al., 2011), as PyTorch has it without a decay of the rate:
//   g = g + weight_decay p,   sum = sum + g g,   p = p - lr (g / (sqrt(sum) + eps))
struct AdagradArguments {
  float lr = 0;
  float eps = 1e-10f;
  float weight_decay = 0;
  float grad_scale = 1;
};

// SGD as PyTorch has it, without dampening:
//   g = g + weight_decay p
//   without momentum  p = p - lr g
//   with it           b = momentum b + g,   p = p - lr b, or with nesterov p - lr (g + momentum b)
struct SgdArguments {
  float lr = 0;
  float momentum = 0;
  float weight_decay = 0;
  float grad_scale = 1;
  bool nesterov = false;
};

// Muon's momentum (Jordan et al., 2024), an exponential mean with a look ahead along it:
//   m = momentum m + (1 - momentum) g,   update = momentum m + (1 - momentum) g
struct MuonArguments {
  float momentum = 0.95f;
  float grad_scale = 1;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_DEVICE_OPTIMIZER_ARGUMENTS_H_
