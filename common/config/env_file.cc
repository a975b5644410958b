#include "common/config/env_file.h"

#include <algorithm>
#include <utility>

namespace dsrun {
namespace {

constexpr std::string_view kBlanks = " \t\v\f\r";

// "export NAME=..." -> "NAME=..."; a variable that is called export stays.
std::string_view WithoutExport(std::string_view text) {
  constexpr std::string_view kExport = "export";
  if (!StartsWith(text, kExport)) return text;
  const std::string_view rest = text.substr(kExport.size());
  if (rest.empty() || !IsBlank(rest.front())) return text;
  return Stripped(rest);
}

void ParseLine(const SourceText& text, const SourceLine& line, Findings& findings,
               std::vector<EnvSetting>& out) {
  const std::string_view stripped = WithoutExport(Stripped(line.text));
  if (stripped.empty() || stripped.front() == '#') return;
  const size_t at = static_cast<size_t>(stripped.data() - line.text.data());
  const size_t equals = stripped.find('=');
  const std::string_view name = Stripped(stripped.substr(0, equals));
  if (name.empty()) {
    findings.Add(text.At(line, at, "expected NAME=VALUE, got no name before '='"));
    return;
  }
  const size_t blank = name.find_first_of(kBlanks);
  if (blank != std::string_view::npos) {
    findings.Add(text.At(line, at + blank,
                         "expected NAME=VALUE, got a blank inside the name " + Quoted(name)));
    return;
  }
  if (!IsVariableName(name)) {
    findings.Add(text.At(line, at,
                         "a variable's name is of letters, digits and '_' and begins with no "
                         "digit, got " +
                             Quoted(name)));
    return;
  }
  if (equals == std::string_view::npos) {
    out.push_back({std::string(name), std::nullopt});
    return;
  }
  std::string_view value = Stripped(stripped.substr(equals + 1));
  if (!value.empty() && (value.front() == '"' || value.front() == '\'')) {
    const bool closed = value.size() > 1 && value.back() == value.front();
    if (!closed) {
      findings.Add(text.At(line, static_cast<size_t>(value.data() - line.text.data()),
                           "the quote is not closed at the end of the line"));
      return;
    }
    value = value.substr(1, value.size() - 2);
  }
  out.push_back({std::string(name), std::string(value)});
}

}  // namespace

bool IsVariableName(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::vector<EnvSetting> ParseEnvFile(const SourceText& text, Findings& findings) {
  std::vector<EnvSetting> out;
  if (!text.IsPlain("an environment file", findings)) return out;
  for (const SourceLine& line : text.lines()) ParseLine(text, line, findings, out);
  return out;
}

}  // namespace dsrun
