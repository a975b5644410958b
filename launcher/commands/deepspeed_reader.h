// What the parts of deepspeed_config.cc read a document with: its values by their paths, judged by
// the table of keys, and the flags, lines and findings that they become. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_READER_H_
#define DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_READER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/config/json_text.h"
#include "common/config/source_text.h"
#include "launcher/commands/deepspeed_config.h"
#include "launcher/commands/deepspeed_keys.h"

namespace dsrun::launcher {

bool IsOfKind(const JsonValue& value, DeepSpeedKey::Kind kind);
// What Hugging Face writes for a value that whoever reads the file is to choose.
bool IsAuto(const JsonValue& value);
// Null, or "auto".
bool IsLeftOpen(const JsonValue& value);
// As a person would show it: at most one line, and no object's inside.
std::string Shown(const JsonValue& value);
// `off`: one value, or several with | between them.
bool AsksForNothing(const JsonValue& value, std::string_view off);

class DeepSpeedReader {
 public:
  // All must outlive it.
  DeepSpeedReader(const SourceText& text, const JsonValue& root, Findings& findings)
      : text_(text), root_(root), findings_(findings) {}

  const JsonValue& root() const { return root_; }
  const Findings& findings() const { return findings_; }
  DeepSpeedConfig& config() { return config_; }

  void Wrong(TextPlace place, std::string message);
  // "PATH: expected KIND, got VALUE".
  void NotA(const std::string& path, DeepSpeedKey::Kind kind, const JsonValue& value);
  void Note(TextPlace place, const std::string& what);

  // Of a right kind: null, "auto" and what is wrong are as if they were left out, a null pointer.
  const JsonValue* Find(const std::string& path) const;
  // It is there, even if only as "auto".
  bool IsSaid(const std::string& path) const;
  // It is there, and true.
  bool IsOn(const std::string& path) const;

  // `place` absent: DeepSpeed's default.
  void Imply(std::string flag, std::string value, std::string key,
             std::optional<TextPlace> place = std::nullopt);
  // Of a key that is a whole number; false: it is left out.
  bool ImplyWhole(const std::string& path, const std::string& flag, int64_t factor = 1);
  // Of a key that is true or false.
  void ImplySwitch(const std::string& path, const std::string& flag);

 private:
  // Whatever stands there; a null pointer: nothing.
  const JsonValue* At(const std::string& path) const;

  const SourceText& text_;
  const JsonValue& root_;
  Findings& findings_;
  DeepSpeedConfig config_;
};

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_DEEPSPEED_READER_H_
