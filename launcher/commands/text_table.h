// Tables for people: rows of equal columns. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_TEXT_TABLE_H_
#define DSRUN_LAUNCHER_COMMANDS_TEXT_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace dsrun::launcher {

// The first row is the heading. Numbers stand to the right.
inline std::string TextTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = " ";
    for (size_t i = 0; i < row.size(); ++i) {
      // The column of a number: its first entry below the heading begins with a digit.
      const bool right = rows.size() > 1 && !rows[1][i].empty() && rows[1][i].front() >= '0' &&
                         rows[1][i].front() <= '9' && rows[1][i].find('.') == std::string::npos;
      const std::string fill(widths[i] - row[i].size(), ' ');
      line += " " + (right ? fill + row[i] : row[i] + fill) + " ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_TEXT_TABLE_H_
