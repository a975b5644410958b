#include "common/numerics/fingerprint.h"

#include <charconv>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace dsrun {
namespace {

constexpr char kTree[] = "tree over ";
constexpr char kBlocks[] = " blocks";

using Text = std::string NumericsFingerprint::*;
using Number = int64_t NumericsFingerprint::*;

// The one list of fields: exactly one of the two members is set.
struct Known {
  const char* key;
  const char* label;
  Text text;
  Number number;
  const char* absent = nullptr;  // what nothing means; null: it is not known
};
constexpr Known kKnown[] = {
    {"library", "matrix library", &NumericsFingerprint::library, nullptr},
    {"library_version", "its version", &NumericsFingerprint::library_version, nullptr},
    {"isa", "instruction set (--isa-cap)", &NumericsFingerprint::isa, nullptr},
    {"sums", "sums over the batch", &NumericsFingerprint::sums, nullptr},
    {"precision", "precision (--precision)", &NumericsFingerprint::precision, nullptr, "fp32"},
    {"hidden_dropout", "hidden dropout (--hidden-dropout)", &NumericsFingerprint::hidden_dropout,
     nullptr, "0"},
    {"attention_dropout", "attention dropout (--attention-dropout)",
     &NumericsFingerprint::attention_dropout, nullptr, "0"},
    {"micro_batches_per_atom", "micro-batches an atom (--micro-batches-per-atom)", nullptr,
     &NumericsFingerprint::micro_batches_per_atom},
    {"tiles", "tiles of matrix products", &NumericsFingerprint::tiles, nullptr},
    {"attention_tiles", "tiles of attention", &NumericsFingerprint::attention_tiles, nullptr},
    {"denormals", "denormals", &NumericsFingerprint::denormals, nullptr},
    {"kernels_version", "version of dsrun's kernels", nullptr,
     &NumericsFingerprint::kernels_version},
};

// Empty: not known.
std::string ValueOf(const NumericsFingerprint& fingerprint, const Known& known) {
  if (known.text != nullptr) return fingerprint.*known.text;
  const int64_t number = fingerprint.*known.number;
  return number == 0 ? "" : std::to_string(number);
}

std::optional<int64_t> ParseNumber(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1) return std::nullopt;
  return number;
}

// Takes "prefix...; " from the front of `rest`, or "prefix..." that is all of it. False: not there.
bool Take(std::string_view& rest, std::string_view prefix, std::string* value) {
  if (!rest.starts_with(prefix)) return false;
  rest.remove_prefix(prefix.size());
  const size_t end = rest.find("; ");
  *value = std::string(rest.substr(0, end));
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
  return !value->empty();
}

std::string OrNotRecorded(std::string value) {
  return value.empty() ? std::string("not recorded") : value;
}

}  // namespace

std::vector<FingerprintField> FieldsOf(const NumericsFingerprint& fingerprint) {
  std::vector<FingerprintField> fields;
  for (const Known& known : kKnown) {
    std::string value = ValueOf(fingerprint, known);
    if (!value.empty()) fields.push_back({known.key, known.label, std::move(value)});
  }
  for (const auto& [key, value] : fingerprint.others) fields.push_back({key, key, value});
  return fields;
}

absl::Status SetField(NumericsFingerprint& fingerprint, const std::string& key,
                      const std::string& value) {
  for (const Known& known : kKnown) {
    if (key != known.key) continue;
    if (known.text != nullptr) {
      fingerprint.*known.text = value;
      return absl::OkStatus();
    }
    const std::optional<int64_t> number = ParseNumber(value);
    if (!number.has_value()) {
      return absl::DataLossError(
          absl::StrCat(key, ": expected a whole number from 1 on, got \"", value, "\""));
    }
    fingerprint.*known.number = *number;
    return absl::OkStatus();
  }
  if (key == "canonical_blocks") {
    SetTreeSums(fingerprint, value);
  } else {
    fingerprint.others[key] = value;
  }
  return absl::OkStatus();
}

std::optional<int64_t> TreeBlocks(const NumericsFingerprint& fingerprint) {
  std::string_view sums = fingerprint.sums;
  if (!sums.starts_with(kTree) || !sums.ends_with(kBlocks)) return std::nullopt;
  sums.remove_prefix(std::string_view(kTree).size());
  sums.remove_suffix(std::string_view(kBlocks).size());
  return ParseNumber(sums);
}

void SetTreeSums(NumericsFingerprint& fingerprint, const std::string& blocks) {
  fingerprint.sums = absl::StrCat(kTree, blocks, kBlocks);
  fingerprint.micro_batches_per_atom = 1;
}

std::optional<NumericsFingerprint> ParseFingerprintText(std::string_view text) {
  NumericsFingerprint out;
  const size_t name = text.find(' ');
  const size_t version = name == std::string_view::npos ? name : text.find(' ', name + 1);
  if (version == std::string_view::npos) return std::nullopt;
  out.library = std::string(text.substr(0, name));
  out.library_version = std::string(text.substr(name + 1, version - name - 1));
  std::string_view rest = text.substr(version + 1);
  std::string denormals, kernels;
  if (!Take(rest, "", &out.isa) || !Take(rest, "tiles ", &out.tiles) ||
      !Take(rest, "attention ", &out.attention_tiles) || !Take(rest, "ftz ", &denormals) ||
      denormals != "daz" || !Take(rest, "kernels v", &kernels) || !rest.empty()) {
    return std::nullopt;
  }
  const std::optional<int64_t> number = ParseNumber(kernels);
  if (out.library.empty() || out.library_version.empty() || !number.has_value()) {
    return std::nullopt;
  }
  if (out.isa == "sse41") out.isa = "baseline";
  out.denormals = "ftz daz";
  out.kernels_version = *number;
  return out;
}

std::vector<Difference> CompareFingerprints(const NumericsFingerprint& checkpoint,
                                            const NumericsFingerprint& ours, OurFields known) {
  std::vector<Difference> found;
  for (const Known& field : kKnown) {
    const std::string theirs = ValueOf(checkpoint, field), mine = ValueOf(ours, field);
    const bool unknown = mine.empty() && field.absent == nullptr;
    if (theirs == mine || (unknown && known == OurFields::kOnlyThoseKnown)) continue;
    const auto words = [&](const std::string& value) {
      return value.empty() && field.absent != nullptr ? field.absent : OrNotRecorded(value);
    };
    found.push_back({field.label, words(theirs), words(mine)});
  }
  std::set<std::string> keys;
  for (const auto& [key, value] : checkpoint.others) keys.insert(key);
  for (const auto& [key, value] : ours.others) keys.insert(key);
  for (const std::string& key : keys) {
    const auto theirs = checkpoint.others.find(key), mine = ours.others.find(key);
    const std::string their_value = theirs == checkpoint.others.end() ? "" : theirs->second;
    const std::string my_value = mine == ours.others.end() ? "" : mine->second;
    // Nobody knows whether such a field decides a bit of ours.
    if (their_value != my_value) {
      found.push_back({key, OrNotRecorded(their_value), OrNotRecorded(my_value)});
    }
  }
  return found;
}

}  // namespace dsrun
