// Hidden dropout of the engine's layers: of the embedding, and of what attention and MLP add to the
// stream. What a pass does not drop runs on the kernels that know nothing of it, so it has the bits
// that it had before there was dropout.

#ifndef DSRUN_WORKER_MODEL_HIDDEN_DROPOUT_H_
#define DSRUN_WORKER_MODEL_HIDDEN_DROPOUT_H_

#include <cstdint>

#include "worker/model/layer.h"

namespace dsrun::worker {

// x (rows, width), or its gradient.
inline void DropInPlace(const Pass& pass, int64_t width, Reals x) {
  const DropoutMask mask = pass.HiddenMask();
  if (mask.drops()) pass.kernels.Dropout({pass.batch, pass.seq_length, width}, mask, x, x);
}

// out = in + dropped(x w + bias)
inline void AddToStream(const Pass& pass, const LinearShape& shape, ConstReals x, ConstReals w,
                        ConstReals bias, ConstReals in, Reals out) {
  const DropoutMask mask = pass.HiddenMask();
  if (mask.drops()) {
    pass.kernels.LinearDropoutResidualForward(shape, pass.seq_length, mask, x, w, bias, in, out);
  } else {
    pass.kernels.LinearResidualForward(shape, x, w, bias, in, out);
  }
}

// The gradient of x w + bias above, where `dstream` is that of `out`: in `free` (rows, width), or
// where nothing is dropped `dstream` itself, which passes on to `in` as it is.
inline ConstReals AddedGradient(const Pass& pass, int64_t width, ConstReals dstream, Reals free) {
  const DropoutMask mask = pass.HiddenMask();
  if (!mask.drops()) return dstream;
  pass.kernels.Dropout({pass.batch, pass.seq_length, width}, mask, dstream, free);
  return free;
}

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_HIDDEN_DROPOUT_H_
