// Every key that DeepSpeed's JSON has had up to 0.19.8, once, and what becomes of it here. Keys
// that 0.19.8 no longer has are still in the table, so that an old file is told what it asks for.
// Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_KEYS_H_
#define DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_KEYS_H_

#include <span>
#include <string_view>

namespace dsrun::launcher {

struct DeepSpeedKey {
  enum class Kind { kBool, kInt, kReal, kText, kList, kObject, kAny };
  enum class Fate {
    kRead,     // deepspeed_config.cc makes flags of it
    kFlag,     // is the flag of ours that `words` name
    kNoted,    // does nothing here, and `words` say why in one line, where it asks for something
    kQuiet,    // says something about another key, which says what becomes of both
    kRefused,  // an error where it asks for something; `words` say what to do instead
  };

  std::string_view path;  // "zero_optimization.stage"
  Kind kind;
  std::string_view off;  // the value, in JSON, that asks for nothing; null always does
  Fate fate;
  std::string_view words;
};

std::span<const DeepSpeedKey> DeepSpeedKeys();
// nullptr: there is none. An object is a key where others lie in it.
const DeepSpeedKey* FindDeepSpeedKey(std::string_view path);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_KEYS_H_
