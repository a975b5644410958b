// NameReader: takes a name or number apart from the front to the back. Private to the manifest.

#ifndef DSRUN_COMMON_FORMAT_NAME_READER_H_
#define DSRUN_COMMON_FORMAT_NAME_READER_H_

#include <charconv>
#include <cstddef>
#include <string_view>
#include <system_error>

namespace dsrun {

class NameReader {
 public:
  explicit NameReader(std::string_view text) : rest_(text) {}
  NameReader& Literal(std::string_view expected) {
    ok_ = ok_ && rest_.starts_with(expected);
    if (ok_) rest_.remove_prefix(expected.size());
    return *this;
  }
  template <typename Int>
  NameReader& Number(Int* value, int base = 10) {
    if (!ok_) return *this;
    const auto result = std::from_chars(rest_.data(), rest_.data() + rest_.size(), *value, base);
    ok_ = result.ec == std::errc() && !rest_.starts_with('-');
    if (ok_) rest_.remove_prefix(static_cast<size_t>(result.ptr - rest_.data()));
    return *this;
  }
  bool Done() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_FORMAT_NAME_READER_H_
