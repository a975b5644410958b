#include "worker/parallel/gradient_collector.h"

#include <utility>

#include "common/base/status_macros.h"

namespace dsrun::worker {

GradientCollector::GradientCollector(Setup setup) : setup_(std::move(setup)) {
  const GradientSpace& space = *setup_.space;
  for (size_t layer = 0; layer < space.layers(); ++layer) {
    std::vector<float*>& in_window = in_window_.emplace_back();
    std::vector<float*>& in_atom = in_atom_.emplace_back();
    for (const GradientSpace::Place& use : space.uses(layer)) {
      in_window.push_back(setup_.window + use.offset);
      in_atom.push_back(setup_.atom == nullptr
                            ? in_window.back()
                            : setup_.atom + space.window_begin(layer) + use.offset);
    }
    backward_window_.push_back(ForBackward(layer, in_window));
    backward_atom_.push_back(ForBackward(layer, in_atom));
  }
}

std::vector<float*> GradientCollector::ForBackward(size_t layer,
                                                   const std::vector<float*>& places) const {
  std::vector<float*> all(setup_.space->planned_uses(layer), nullptr);
  for (size_t index = 0; index < places.size(); ++index) {
    all[setup_.space->uses(layer)[index].use] = places[index];
  }
  return all;
}

// The first of an atom is stored where the atom is summed, the others are added to it.
std::span<float* const> GradientCollector::Begin(size_t layer) {
  return place_.first_of_atom ? backward_atom_[layer] : backward_window_[layer];
}

absl::Status GradientCollector::End(size_t layer) {
  const std::vector<GradientSpace::Place>& uses = setup_.space->uses(layer);
  for (size_t use = 0; !place_.first_of_atom && use < uses.size(); ++use) {
    const FlatLayout::Entry& entry = setup_.layout->entries()[uses[use].tensor];
    setup_.kernels->Accumulate(entry.tensor.size(), in_window_[layer][use], in_atom_[layer][use]);
  }
  if (place_.last_of_atom) {
    RETURN_IF_ERROR(EndOfAtom(layer));
  }
  return setup_.check();
}

// Bucket by bucket, so that the first is on its way while the next is filled.
absl::Status GradientCollector::EndOfAtom(size_t layer) {
  for (const SumPlaces::Visit& visit : setup_.places->visits(layer)) {
    if (visit.slot_after) {
      RETURN_IF_ERROR(setup_.reducer->Await(*visit.slot_after));
    } else if (visit.slot_after_round) {
      RETURN_IF_ERROR(setup_.reducer->AwaitRoundBefore(*visit.slot_after_round));
    }
    for (const SumPlaces::Piece& piece : visit.pieces) {
      const size_t tensor = setup_.space->uses(layer)[piece.use].tensor;
      const int64_t begin = piece.flat.begin - setup_.layout->entries()[tensor].offset;
      setup_.sums->Add(visit.part, tensor, piece.flat, in_atom_[layer][piece.use] + begin,
                       piece.first && place_.first_atom);
    }
    if (place_.last) {
      RETURN_IF_ERROR(setup_.reducer->Ready(visit.ready));
    }
  }
  return place_.last ? setup_.reducer->Ready(setup_.places->ready_after(layer)) : absl::OkStatus();
}

}  // namespace dsrun::worker
