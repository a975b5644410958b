#include "common/plan/library_plan.h"

#include <string>
#include <utility>

namespace dsrun {

std::vector<PlannedBuffer> PlanLibraries(const LibraryInput& input) {
  std::vector<PlannedBuffer> lines;
  const auto add = [&](std::string name, int64_t bytes, std::string formula) {
    lines.push_back({.name = std::move(name),
                     .group = "libraries",
                     .space = Space::kHost,
                     .dtype = DType::kU8,
                     .elements = bytes,
                     .formula = std::move(formula)});
  };
  add("libraries.process", kProcessBytes, "code, heap, stacks and messages, seen of a small model");
  add("libraries.product", input.threads * kProductBytes,
      "threads x what the matrix library packs a tile's operands into");
  if (input.precision != DType::kF32) {
    add("libraries.half_product", input.threads * kHalfProductBytes,
        "threads x a tile in fp32 and its operands");
  }
  add("libraries.rings", (input.ranks_of_machine - 1) * kRingBytes,
      "other ranks of the node x a ring in shared memory");
  add("libraries.connections", (input.width - input.ranks_of_machine) * kConnectionBytes,
      "ranks of other nodes x a socket's buffers");
  return lines;
}

int64_t LibraryBytes(const LibraryInput& input) {
  int64_t bytes = 0;
  for (const PlannedBuffer& line : PlanLibraries(input)) bytes += line.bytes();
  return bytes;
}

}  // namespace dsrun
