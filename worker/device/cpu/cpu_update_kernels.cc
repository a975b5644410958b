// The second half of CpuKernels: what becomes of gradients. Exact sums, optimizers, norms; all
// fp32, whatever the model computes in. The first half, layers, is cpu_kernels.cc.

#include <atomic>

#include "worker/device/cpu/cpu_kernels.h"

namespace dsrun::worker {
namespace {

constexpr int64_t kLeafPiece = 64;

}  // namespace

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

// --- Optimizers

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
