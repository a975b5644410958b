#include "common/model/own_model.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/layer_kinds.h"

namespace dsrun {
namespace {

// What plans count in bytes stays far inside of 64 bits.
constexpr int64_t kMostExtent = int64_t{1} << 32;
constexpr double kMostElements = 1e12;

absl::Status Wrong(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckName(const std::string& where, const std::string& name) {
  const bool plain = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  });
  if (plain) return absl::OkStatus();
  return Wrong(where, absl::StrCat("expected a name of letters, digits, '.', '-' and '_', got \"",
                                   name, "\""));
}

absl::Status CheckSize(const std::string& where, const char* what, int64_t value) {
  if (value >= 1 && value <= kMostExtent) return absl::OkStatus();
  return Wrong(where,
               absl::StrCat(what, ": expected a number from 1 to ", kMostExtent, ", got ", value));
}

absl::Status CheckActivations(const std::string& where,
                              const std::vector<PlannedActivation>& activations) {
  for (const PlannedActivation& activation : activations) {
    RETURN_IF_ERROR(CheckName(where, activation.name));
    RETURN_IF_ERROR(CheckSize(where, activation.name.c_str(), activation.elements));
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const std::string& where, const LogicalTensor& tensor) {
  RETURN_IF_ERROR(CheckName(where, tensor.name));
  if (tensor.shape.empty()) {
    return Wrong(where, absl::StrCat("tensor ", tensor.name,
                                     " has no shape; a single number has "
                                     "shape {1}"));
  }
  double elements = 1;
  for (const int64_t extent : tensor.shape) {
    RETURN_IF_ERROR(CheckSize(where, tensor.name.c_str(), extent));
    elements *= static_cast<double>(extent);
  }
  if (elements > kMostElements) {
    return Wrong(where, absl::StrCat("tensor ", tensor.name, " would have ", elements,
                                     " elements; at most ", kMostElements, " are planned for"));
  }
  if (!std::isfinite(tensor.stddev) || tensor.stddev < 0) {
    return Wrong(where,
                 absl::StrCat("tensor ", tensor.name,
                              ": expected a standard deviation from 0 on, got ", tensor.stddev));
  }
  if (tensor.trainable) return absl::OkStatus();
  return Wrong(where, absl::StrCat("tensor ", tensor.name,
                                   " is frozen: models of one's own train all their tensors"));
}

LayerPlan PlanLayer(const ModelSpec& spec, const LayerDescription& layer,
                    std::vector<size_t> uses) {
  if (layer.kind == LayerKind::kAttention) {
    return AttentionLayer(spec, layer.name, std::move(uses));
  }
  if (layer.kind == LayerKind::kMlp) return MlpLayer(spec, layer.name, std::move(uses));
  return {.kind = LayerKind::kOwn,
          .name = layer.name,
          .uses = std::move(uses),
          .kept = layer.kept,
          .workspace = layer.workspace,
          .flops_of_token = layer.flops_of_row,
          .out = layer.out};
}

class Planner {
 public:
  explicit Planner(const ModelDescription& model)
      : model_(model), what_(absl::StrCat("model ", model.name)) {}

  absl::StatusOr<ModelPlan> Plan() {
    RETURN_IF_ERROR(CheckName("a model of one's own", model_.name));
    RETURN_IF_ERROR(CheckSizes());
    RETURN_IF_ERROR(CheckStream());
    plan_.spec = Spec();
    plan_.sample = model_.sample;
    for (const LayerDescription& layer : model_.layers) RETURN_IF_ERROR(AddLayer(layer));
    if (!plan_.tensors.empty()) return std::move(plan_);
    return Wrong(what_, "no layer has a tensor: there is nothing to train");
  }

 private:
  std::string Where(const LayerDescription& layer) const {
    return absl::StrCat(what_, ", layer ", layer.name);
  }
  absl::Status CheckSizes() const {
    if (model_.layers.empty()) return Wrong(what_, "it has no layers; the last one gives the loss");
    RETURN_IF_ERROR(CheckSize(what_, "rows of a sample", model_.rows));
    RETURN_IF_ERROR(CheckSize(what_, "inputs of a row", model_.sample.inputs_of_row));
    RETURN_IF_ERROR(CheckSize(what_, "targets of a row", model_.sample.targets_of_row));
    RETURN_IF_ERROR(CheckSize(what_, "outputs", model_.outputs));
    RETURN_IF_ERROR(CheckSize(what_, "attention heads", model_.heads));
    const auto ids = [&](const char* what, SampleShape::Elements elements, int64_t count) {
      if (elements != SampleShape::Elements::kIds) return absl::OkStatus();
      return CheckSize(what_, what, count);
    };
    RETURN_IF_ERROR(ids("ids of inputs", model_.sample.inputs, model_.sample.input_ids));
    return ids("ids of targets", model_.sample.targets, model_.sample.target_ids);
  }
  // Sets the width, too: that of the widest.
  absl::Status CheckStream() {
    for (size_t i = 0; i + 1 < model_.layers.size(); ++i) {
      const LayerDescription& layer = model_.layers[i];
      RETURN_IF_ERROR(CheckSize(Where(layer), "floats that it gives for a row", layer.out));
      width_ = std::max(width_, layer.out);
    }
    const SampleShape& sample = model_.sample;
    const bool floats = sample.inputs == SampleShape::Elements::kFloats;
    const LayerDescription& first = model_.layers.front();
    if (first.in != (floats ? sample.inputs_of_row : 0)) {
      return Wrong(Where(first), absl::StrCat("the first layer takes ", first.in,
                                              " floats for a row, and the samples have ",
                                              floats ? sample.inputs_of_row : 0));
    }
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const LayerDescription& layer = model_.layers[i];
      if (i > 0 && layer.in != model_.layers[i - 1].out) {
        return Wrong(Where(layer), absl::StrCat("it takes ", layer.in, " floats for a row, and ",
                                                model_.layers[i - 1].name, " before it gives ",
                                                model_.layers[i - 1].out));
      }
      if (layer.kind == LayerKind::kOwn) continue;
      RETURN_IF_ERROR(CheckBlock(i));
    }
    return absl::OkStatus();
  }
  absl::Status CheckBlock(size_t index) const {
    const LayerDescription& layer = model_.layers[index];
    if (layer.kind != LayerKind::kAttention && layer.kind != LayerKind::kMlp) {
      return Wrong(Where(layer), "of the engine's own kinds it can be attention or MLP");
    }
    if (index == 0 || index + 1 == model_.layers.size()) {
      return Wrong(Where(layer), "a block of the engine is neither the first nor the last layer");
    }
    if (layer.out != width_ || layer.in != width_) {
      return Wrong(Where(layer), absl::StrCat("a block of the engine has the width of the model, ",
                                              width_, ", got ", layer.in, " and ", layer.out));
    }
    if (width_ % model_.heads != 0) {
      return Wrong(what_, absl::StrCat("its width ", width_, " is not a multiple of its ",
                                       model_.heads, " attention heads"));
    }
    std::vector<std::vector<int64_t>> shapes;
    for (const LogicalTensor& tensor : layer.tensors) shapes.push_back(tensor.shape);
    const bool is_mlp = layer.kind == LayerKind::kMlp;
    const int64_t inner = (is_mlp ? 4 : 3) * width_;
    const int64_t back = is_mlp ? inner : width_;
    const std::vector<std::vector<int64_t>> expected = {{width_}, {width_},       {width_, inner},
                                                        {inner},  {back, width_}, {width_}};
    if (shapes == expected && layer.shared.empty()) return absl::OkStatus();
    return Wrong(Where(layer),
                 absl::StrCat("a block of the engine has six tensors of its own: (", width_, "), (",
                              width_, "), (", width_, ", ", inner, "), (", inner, "), (", back,
                              ", ", width_, "), (", width_, ")"));
  }
  ModelSpec Spec() const {
    ModelSpec spec;
    spec.preset = model_.name;
    spec.family = kOwnFamily;
    spec.num_layers = static_cast<int64_t>(model_.layers.size());
    spec.hidden_size = width_;
    spec.num_attention_heads = model_.heads;
    spec.seq_length = model_.rows;
    spec.vocab_size = model_.outputs;
    return spec;
  }
  absl::Status AddLayer(const LayerDescription& layer) {
    const std::string where = Where(layer);
    RETURN_IF_ERROR(CheckName(where, layer.name));
    if (!layers_.insert(layer.name).second) return Wrong(where, "another layer has this name");
    if (!std::isfinite(layer.flops_of_row) || layer.flops_of_row < 0) {
      return Wrong(
          where, absl::StrCat("expected operations of a row from 0 on, got ", layer.flops_of_row));
    }
    RETURN_IF_ERROR(CheckActivations(where, layer.kept));
    RETURN_IF_ERROR(CheckActivations(where, layer.workspace));
    std::vector<size_t> uses;
    for (const std::string& name : layer.shared) {
      const auto found = tensors_.find(name);
      if (found == tensors_.end()) {
        return Wrong(where, absl::StrCat("it shares tensor ", name, ", which no layer before has"));
      }
      uses.push_back(found->second);
    }
    std::vector<size_t> own;
    for (const LogicalTensor& tensor : layer.tensors) {
      RETURN_IF_ERROR(CheckTensor(where, tensor));
      if (!tensors_.emplace(tensor.name, plan_.tensors.size()).second) {
        return Wrong(where, absl::StrCat("another tensor is called ", tensor.name));
      }
      own.push_back(plan_.tensors.size());
      plan_.tensors.push_back(tensor);
    }
    uses.insert(uses.begin(), own.begin(), own.end());
    plan_.layers.push_back(PlanLayer(plan_.spec, layer, std::move(uses)));
    return absl::OkStatus();
  }

  const ModelDescription& model_;
  const std::string what_;
  int64_t width_ = 1;
  ModelPlan plan_;
  std::set<std::string> layers_;
  std::map<std::string, size_t> tensors_;
};

}  // namespace

absl::StatusOr<ModelPlan> PlanOwnModel(const ModelDescription& model) {
  return Planner(model).Plan();
}

}  // namespace dsrun
