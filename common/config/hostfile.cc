#include "common/config/hostfile.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <utility>

#include "common/base/escaped.h"

namespace dsrun {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlnum(char c) { return IsDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool AllDigits(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), IsDigit);
}

// The value of a text of digits; -1: not digits, or above `limit`.
int SmallNumber(std::string_view digits, int limit) {
  if (!AllDigits(digits)) return -1;
  int64_t value = 0;
  for (const char c : digits) {
    value = value * 10 + (c - '0');
    if (value > limit) return -1;
  }
  return static_cast<int>(value);
}

// Parses one line into the hosts it names. Offsets are bytes from the start of the line.
class LineParser {
 public:
  LineParser(const SourceText& source, const SourceLine& line, Findings& findings)
      : source_(source), line_(line), text_(line.text), findings_(findings) {}

  std::vector<HostEntry> Parse();

 private:
  void Error(size_t offset, const std::string& message) {
    findings_.Add(source_.At(line_, offset, message));
  }
  // DeepSpeed's sentence, then what exactly is wrong.
  void BadEntry(size_t offset, const std::string& why) {
    Error(offset, "Hostfile contains a bad entry: " + Shown() +
                      ", unable to proceed with launching: " + why);
  }
  std::string Shown() const;
  size_t SkipBlanks(size_t at) const;
  size_t WordEnd(size_t at) const;
  std::string_view Word(size_t at) const { return text_.substr(at, WordEnd(at) - at); }

  bool CheckVisible(size_t at, size_t end);
  std::optional<int> ParseSlots(size_t at, std::string_view host);
  bool CheckRest(size_t at);
  std::optional<HostEntry> ParseHost(size_t at, std::string_view word);
  std::optional<std::vector<std::string>> Expand(size_t at, std::string_view host);
  bool AppendRange(size_t at, std::string_view prefix, std::string_view range,
                   std::string_view suffix, std::vector<std::string>& out);

  const SourceText& source_;
  const SourceLine& line_;
  const std::string_view text_;
  Findings& findings_;
};

std::string LineParser::Shown() const { return Escaped(Stripped(text_).substr(0, 120), "\t"); }

size_t LineParser::SkipBlanks(size_t at) const {
  while (at < text_.size() && IsBlank(text_[at])) ++at;
  return at;
}

size_t LineParser::WordEnd(size_t at) const {
  while (at < text_.size() && !IsBlank(text_[at])) ++at;
  return at;
}

std::vector<HostEntry> LineParser::Parse() {
  const size_t host_at = SkipBlanks(0);
  if (host_at == text_.size() || text_[host_at] == '#') return {};
  const std::string_view word = Word(host_at);
  const size_t slots_at = SkipBlanks(WordEnd(host_at));
  if (!CheckVisible(host_at, WordEnd(slots_at))) return {};
  if (StartsWith(word, "slots=")) {
    BadEntry(host_at, "the host is missing; write HOST slots=N");
    return {};
  }
  const std::optional<int> slots = ParseSlots(slots_at, word);
  const std::optional<HostEntry> entry = ParseHost(host_at, word);
  if (!slots.has_value() || !entry.has_value()) return {};
  const size_t user_end = word.find('@');
  const auto hosts =
      Expand(host_at + (user_end == std::string_view::npos ? 0 : user_end + 1), entry->host);
  if (!hosts.has_value()) return {};
  std::vector<HostEntry> out;
  for (const std::string& host : *hosts) {
    out.push_back({host, entry->user, entry->port, *slots, line_.number});
  }
  return out;
}

// A letter that looks like a blank, or like nothing, makes every other message a riddle.
bool LineParser::CheckVisible(size_t at, size_t end) {
  while (at < end) {
    const std::string_view letter = FirstLetter(text_.substr(at));
    const std::string shown = EscapedLetter(letter);
    if (shown != letter && !IsBlank(letter.front())) {
      Error(at, "expected blanks and letters that can be seen, got " + shown +
                    "; delete it, or type a blank in its place");
      return false;
    }
    at += letter.size();
  }
  return true;
}

std::optional<int> LineParser::ParseSlots(size_t at, std::string_view host) {
  constexpr std::string_view kKey = "slots=";
  const std::string_view word = Word(at);
  if (word.empty() || word.front() == '#') {
    BadEntry(word.empty() ? text_.size() : at,
             "slots=N is missing; write " + std::string(host) + " slots=N");
    return std::nullopt;
  }
  if (!StartsWith(word, kKey)) {
    std::string lower(word.substr(0, kKey.size()));
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (lower == "slots=" || lower == "slots") {
      BadEntry(at, word == "slots" ? "write slots=N without blanks around ="
                                   : "write slots= in small letters");
    } else {
      BadEntry(at, "expected slots=N right after the host, got " + Quoted(word));
    }
    return std::nullopt;
  }
  const size_t value_at = at + kKey.size();
  const std::string_view value = word.substr(kKey.size());
  size_t digits = 0;
  while (digits < value.size() && IsDigit(value[digits])) ++digits;
  if (value.empty()) {
    BadEntry(value_at, "the number after slots= is missing");
    return std::nullopt;
  }
  if (digits == 0) {
    BadEntry(value_at, "slots must be a positive integer, got " + Quoted(value));
    return std::nullopt;
  }
  const int slots = SmallNumber(value.substr(0, digits), kMaxSlotsPerHost);
  if (slots < 0) {
    Error(value_at, "slots must be a positive integer up to " + std::to_string(kMaxSlotsPerHost) +
                        ", got " + Quoted(value));
    return std::nullopt;
  }
  if (slots == 0) {
    Error(value_at, "slots must be a positive integer, got \"" +
                        std::string(value.substr(0, digits)) + "\"; to leave " + std::string(host) +
                        " out, delete the line or use --exclude " + std::string(host));
    return std::nullopt;
  }
  const std::string_view tail = value.substr(digits);
  if (!tail.empty() && tail.front() == ',') {
    Error(value_at + digits, "one host a line: what follows the comma (" +
                                 Quoted(Stripped(text_.substr(value_at + digits + 1))) +
                                 ") would be lost; give it a line of its own");
    return std::nullopt;
  }
  if (!tail.empty() && tail.front() != '#') {
    Diagnostic warning = source_.At(line_, value_at,
                                    "slots must be a positive integer, got " + Quoted(value) +
                                        "; " + std::to_string(slots) + " is used");
    warning.warning = true;
    findings_.Add(std::move(warning));
  }
  if (tail.find('#') == std::string_view::npos && !CheckRest(WordEnd(at))) return std::nullopt;
  return slots;
}

// Behind the slots anything goes, except a second entry, which would be lost.
bool LineParser::CheckRest(size_t at) {
  size_t before = at;
  for (at = SkipBlanks(at); at < text_.size() && text_[at] != '#'; at = SkipBlanks(WordEnd(at))) {
    if (StartsWith(Word(at), "slots=")) {
      Error(before, "one host a line: a second slots= follows (" +
                        Quoted(Stripped(text_.substr(before))) +
                        ") and would be lost; give it a line of its own");
      return false;
    }
    before = at;
  }
  return true;
}

// user@host:port, without expanding ranges.
std::optional<HostEntry> LineParser::ParseHost(size_t at, std::string_view word) {
  HostEntry entry;
  const size_t monkey = word.find('@');
  if (monkey != std::string_view::npos) {
    entry.user = std::string(word.substr(0, monkey));
    const auto bad = std::find_if_not(entry.user.begin(), entry.user.end(), [](char c) {
      return IsAlnum(c) || c == '_' || c == '-' || c == '.';
    });
    if (entry.user.empty() || bad != entry.user.end()) {
      Error(at, "expected a user name of letters, digits, '.', '-' and '_' before '@', got " +
                    Quoted(entry.user));
      return std::nullopt;
    }
    word.remove_prefix(monkey + 1);
    at += monkey + 1;
  }
  // A colon after the last bracket separates the port: [::1]:7411, w[1-3]:7411.
  const size_t bracket = word.rfind(']');
  const size_t colon = word.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) {
    const std::string_view port = word.substr(colon + 1);
    const int value = SmallNumber(port, 65535);
    if (value <= 0) {
      Error(at + colon + 1, "expected the port of a running agent (1 to 65535) after ':', got " +
                                Quoted(port) + "; write an IPv6 address in brackets: [::1]");
      return std::nullopt;
    }
    entry.port = value;
    word = word.substr(0, colon);
  }
  if (word.empty()) {
    Error(at, "the host name is empty; write HOST slots=N");
    return std::nullopt;
  }
  entry.host = std::string(word);
  return entry;
}

std::optional<std::vector<std::string>> LineParser::Expand(size_t at, std::string_view host) {
  if (host.front() == '[') {  // IPv6
    const bool closed = host.find(']') == host.size() - 1 && host.size() > 3;
    const std::string_view inner = closed ? host.substr(1, host.size() - 2) : host;
    const bool address = closed && inner.find(':') != std::string_view::npos &&
                         std::all_of(inner.begin(), inner.end(), [](char c) {
                           return IsAlnum(c) || c == ':' || c == '.' || c == '%';
                         });
    if (!address) {
      Error(at, "expected an IPv6 address in brackets such as [::1], got " + Quoted(host));
      return std::nullopt;
    }
    return std::vector<std::string>{std::string(host)};
  }
  const size_t open = host.find('[');
  const size_t close = host.find(']');
  const auto bad = std::find_if_not(host.begin(), host.end(), [](char c) {
    return IsAlnum(c) || c == '.' || c == '-' || c == '_' || c == '[' || c == ']' || c == ',';
  });
  const size_t comma = host.substr(0, open).find(',');
  if (bad != host.end() || comma != std::string_view::npos) {
    const size_t offset = bad != host.end() ? static_cast<size_t>(bad - host.begin()) : comma;
    Error(at + offset, "a host name holds letters, digits, '.', '-' and '_', got " + Quoted(host) +
                           (host[offset] == ',' ? "; one host a line" : ""));
    return std::nullopt;
  }
  if (open == std::string_view::npos && close == std::string_view::npos) {
    return std::vector<std::string>{std::string(host)};
  }
  if (open == std::string_view::npos || close == std::string_view::npos || close < open ||
      host.find_first_of("[],", close + 1) != std::string_view::npos ||
      host.find('[', open + 1) != std::string_view::npos) {
    Error(at + std::min(open, close),
          "expected one range such as w[1-3] or w[1-3,7], got " + Quoted(host));
    return std::nullopt;
  }
  std::vector<std::string> out;
  size_t begin = open + 1;
  while (begin <= close) {
    size_t end = std::min(host.find(',', begin), close);
    if (!AppendRange(at + begin, host.substr(0, open), host.substr(begin, end - begin),
                     host.substr(close + 1), out)) {
      return std::nullopt;
    }
    begin = end + 1;
  }
  return out;
}

// "3" or "08-11" (zeros in front are kept) between prefix and suffix.
bool LineParser::AppendRange(size_t at, std::string_view prefix, std::string_view range,
                             std::string_view suffix, std::vector<std::string>& out) {
  const size_t dash = range.find('-');
  const std::string_view first = range.substr(0, dash);
  const std::string_view last = dash == std::string_view::npos ? first : range.substr(dash + 1);
  constexpr int kLimit = 999999999;
  const int low = SmallNumber(first, kLimit);
  const int high = SmallNumber(last, kLimit);
  if (low < 0 || high < 0) {
    Error(at, "expected a number or a range such as 1-3 inside [], got " + Quoted(range));
    return false;
  }
  if (low > high) {
    Error(at, "the range " + Quoted(range) + " runs backwards; write " + std::string(last) + "-" +
                  std::string(first));
    return false;
  }
  if (high - low >= kMaxHosts || static_cast<int>(out.size()) + high - low >= kMaxHosts) {
    Error(at, "the range " + Quoted(range) + " names more than " + std::to_string(kMaxHosts) +
                  " hosts");
    return false;
  }
  for (int i = low; i <= high; ++i) {
    std::string digits = std::to_string(i);
    if (first.front() == '0' && digits.size() < first.size()) {
      digits.insert(0, first.size() - digits.size(), '0');
    }
    out.push_back(std::string(prefix) + digits + std::string(suffix));
  }
  return true;
}

}  // namespace

std::string HostEntry::name() const { return port == 0 ? host : host + ":" + std::to_string(port); }

namespace {

// The first of `all`, and how many more there are.
void AddBounded(const Findings& all, const SourceText& text, Findings& findings) {
  const size_t count = all.all().size();
  bool errors_left_out = false;
  for (size_t i = 0; i < count; ++i) {
    if (i < kMostHostfileFindings) {
      findings.Add(all.all()[i]);
    } else {
      errors_left_out |= !all.all()[i].warning;
    }
  }
  if (count <= kMostHostfileFindings) return;
  Diagnostic more;
  more.file = text.name();
  more.message = std::to_string(count - kMostHostfileFindings) +
                 " more of this file are not shown; is it a hostfile?";
  more.warning = !errors_left_out;
  findings.Add(std::move(more));
}

Hostfile ParseAll(const SourceText& text, Findings& findings);

}  // namespace

Hostfile ParseHostfile(const SourceText& text, Findings& findings) {
  Findings all;
  Hostfile file = ParseAll(text, all);
  AddBounded(all, text, findings);
  return file;
}

namespace {

Hostfile ParseAll(const SourceText& text, Findings& findings) {
  Hostfile file;
  file.path = text.name();
  std::map<std::string, int> first_line;  // by name
  const size_t before_all = findings.all().size();
  if (!text.IsPlain("a hostfile", findings)) return file;
  bool said_anything = findings.all().size() > before_all;
  for (const SourceLine& line : text.lines()) {
    const size_t before = findings.all().size();
    for (HostEntry& entry : LineParser(text, line, findings).Parse()) {
      const auto [found, fresh] = first_line.emplace(entry.name(), line.number);
      if (!fresh) {
        const size_t at = line.text.find_first_not_of(" \t\v\f\r");
        findings.Add(text.At(line, at,
                             "Hostfile contains multiple entries for " + entry.name() +
                                 ", unable to proceed with launching: the first is in line " +
                                 std::to_string(found->second)));
        break;  // one finding a line
      }
      file.hosts.push_back(std::move(entry));
    }
    said_anything = said_anything || findings.all().size() > before;
    if (file.hosts.size() > static_cast<size_t>(kMaxHosts)) {
      findings.Add(text.At(line, 0, "more than " + std::to_string(kMaxHosts) + " hosts"));
      return file;
    }
  }
  if (file.hosts.empty() && !said_anything) {
    const SourceLine nothing{1, ""};
    findings.Add(text.At(text.lines().empty() ? nothing : text.lines().front(), 0,
                         "Hostfile is empty or not formatted correctly, unable to proceed with "
                         "launching."));
  }
  return file;
}

}  // namespace

std::string PrintHostfile(const Hostfile& hostfile) {
  std::string out;
  for (const HostEntry& host : hostfile.hosts) {
    if (!host.user.empty()) out += host.user + "@";
    out += host.name() + " slots=" + std::to_string(host.slots) + "\n";
  }
  return out;
}

}  // namespace dsrun
