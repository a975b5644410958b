// The numerics fingerprint: what decides the bits of a training step besides model, batch, seed and
// text (docs/numerics.md, rule i). The kernels say theirs, a checkpoint's manifest keeps it, and
// whoever goes on from the checkpoint compares. Pure; any thread.

#ifndef DSRUN_COMMON_NUMERICS_FINGERPRINT_H_
#define DSRUN_COMMON_NUMERICS_FINGERPRINT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/base/differences.h"

namespace dsrun {

// Sums over the batch as docs/numerics.md has them; the number changes with their bits.
inline constexpr std::string_view kExactSums = "exact 1";
// In fp32 and in the order in which they come: every layout is another curve.
inline constexpr std::string_view kFastSums = "fast fp32";
// What --sums and TrainSpec.sums say for them; "exact" and nothing: exact.
inline constexpr std::string_view kSumsExactFlag = "exact";
inline constexpr std::string_view kSumsFastFlag = "fast";
inline std::string SumsOf(std::string_view flag) {
  return std::string(flag == kSumsFastFlag ? kFastSums : kExactSums);
}

// An empty text or 0: not known, unless it says otherwise.
struct NumericsFingerprint {
  std::string library;          // of matrix products: "oneDNN"
  std::string library_version;  // "3.7.1"
  std::string isa;              // the library's instruction set, by the names of --isa-cap where
                                // it has one: "avx512", "avx2", "baseline", "avx512-bf16", ...
  std::string sums;             // how gradients are summed over the batch: kExactSums, ...
  std::string precision;        // what the model computes in: "bf16", "fp16"; empty: fp32
  int64_t micro_batches_per_atom = 0;  // summed in fp32 before that
  std::string tiles;                   // of matrix products: "512x384 or 192"
  std::string attention_tiles;         // queries x keys: "32x64"
  std::string denormals;               // "ftz daz"
  int64_t kernels_version = 0;         // of our own kernels (kernels_version.h)
  // Rates of dropout, by their words (dropout.h); empty: nothing is dropped.
  std::string hidden_dropout;
  std::string attention_dropout;
  // What another version of dsrun says besides, by its name there.
  std::map<std::string, std::string> others;
  friend bool operator==(const NumericsFingerprint&, const NumericsFingerprint&) = default;
};

// The fields that are known, in a fixed order, as a manifest has them ("isa": "avx2") and as people
// read them ("instruction set (--isa-cap)").
struct FingerprintField {
  std::string key;
  std::string label;
  std::string value;
};
std::vector<FingerprintField> FieldsOf(const NumericsFingerprint& fingerprint);

// The way back, one field. A key that is none of ours goes to `others`.
// Errors: DATA_LOSS: no number where one belongs.
absl::Status SetField(NumericsFingerprint& fingerprint, const std::string& key,
                      const std::string& value);

// Until 2026-11-27 sums were a tree over so many canonical blocks of the batch, by one order of
// fp32 additions (field "canonical_blocks"): other bits than any of today.
void SetTreeSums(NumericsFingerprint& fingerprint, const std::string& blocks);
// How many blocks, of such sums.
std::optional<int64_t> TreeBlocks(const NumericsFingerprint& fingerprint);

// Until 2026-11-26 a manifest had one text: "oneDNN 3.7.1 avx2; tiles 512x384 or 192; attention
// 32x64; ftz daz; kernels v3" (the library's own name for baseline was sse41). nullopt: not
// exactly so.
std::optional<NumericsFingerprint> ParseFingerprintText(std::string_view text);

// How much of ourselves is known: all of it, or only what the launcher can say, which does not link
// the kernels. What it does not know is then not compared.
enum class OurFields { kAll, kOnlyThoseKnown };

// Name, the checkpoint's value, ours; in the order of FieldsOf. What only one side has recorded is
// a difference. Empty: the same bits, as far as we know ourselves.
std::vector<Difference> CompareFingerprints(const NumericsFingerprint& checkpoint,
                                            const NumericsFingerprint& ours, OurFields known);

}  // namespace dsrun

#endif  // DSRUN_COMMON_NUMERICS_FINGERPRINT_H_
