// NewtonSchulz: what Muon (Jordan et al., 2024) makes of a matrix x = U S V^T: nearly U V^T. Five
// steps x -> (a I + b G + c G G) x, G = x x^T, with a, b, c = 3.4445, -4.7750, 2.0315, which move
// every singular value of x towards 1: from 0.002 on it ends between 0.68 and 1.21. They are chosen
// for speed from small values, not for convergence.
//
// Two methods, by DeepSpeed's names. Standard: the steps as they are. Gram (its default; Dao-AILab,
// 2026): the same polynomial by way of the square matrix R = x x^T of the smaller side. A step is a
// factor P = a I + b R + c R R of x, and of R on both sides; the factors are multiplied into Q, and
// x only meets Q: after two steps, where R begins anew lest rounding grow, and at the end. That is
// fewer products where the sides differ by half or more; of square matrices both are the standard.
//
// A tall matrix is multiplied from the right, with G = x^T x, and never transposed in memory.

#ifndef DSRUN_WORKER_OPTIM_NEWTON_SCHULZ_H_
#define DSRUN_WORKER_OPTIM_NEWTON_SCHULZ_H_

#include "common/plan/matrix_plan.h"
#include "common/plan/optimizer_plan.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

// Returns where the result stands: `x` or the beginning of `scratch`; both are overwritten. Of
// zeros it is zeros. REQUIRES: no singular value of x, (rows, columns), is above 1.
float* NewtonSchulz(Kernels& kernels, NsMethod method, MatrixShape shape,
                    float* x,         // (rows, columns)
                    float* scratch);  // (NewtonSchulzScratch(shape))

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_NEWTON_SCHULZ_H_
