// Typed values of flags, with one finding for each that does not fit. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_FLAG_VALUES_H_
#define DSRUN_LAUNCHER_COMMANDS_FLAG_VALUES_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/config/source_text.h"
#include "launcher/commands/command_line.h"

namespace dsrun::launcher {

// Each method returns the value of the flag's last use; nothing when it was not given or is wrong
// (then there is a finding). The flag must be in the table of options.
class FlagValues {
 public:
  // Both must outlive this.
  FlagValues(const FlagUses& uses, Findings& findings) : uses_(uses), findings_(findings) {}

  bool Has(std::string_view name) const { return uses_.Has(name); }
  bool Switch(std::string_view name) const { return uses_.Has(name); }
  bool OnOff(std::string_view name, bool otherwise) const;
  std::optional<std::string> Text(std::string_view name) const;
  std::vector<std::string> Texts(std::string_view name) const;
  std::optional<std::string> OneOf(std::string_view name, const std::vector<std::string>& words);
  std::optional<int64_t> Int(std::string_view name, int64_t least,
                             int64_t most = std::numeric_limits<int64_t>::max());
  // In [least, most], or in [least, most) with `below`.
  std::optional<double> Real(std::string_view name, double least,
                             double most = std::numeric_limits<double>::max(), bool below = false);
  std::optional<absl::Duration> Time(std::string_view name, absl::Duration least,
                                     absl::Duration most);

 private:
  void Wrong(std::string_view name, const std::string& expected, const std::string& got);

  const FlagUses& uses_;
  Findings& findings_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_FLAG_VALUES_H_
