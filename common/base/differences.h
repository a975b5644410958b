// What two things that should be alike have otherwise, for people: a list, and the list as a table.
//
//                                  checkpoint  this run
//     seed                         7           9
//     instruction set (--isa-cap)  avx2        baseline
//
// Pure; any thread.

#ifndef DSRUN_COMMON_BASE_DIFFERENCES_H_
#define DSRUN_COMMON_BASE_DIFFERENCES_H_

#include <string>
#include <string_view>
#include <vector>

namespace dsrun {

struct Difference {
  std::string name;
  std::string theirs;
  std::string ours;
  friend bool operator==(const Difference&, const Difference&) = default;
};

// One line each below a line with the two titles, in columns; every line begins with a line end and
// four blanks, so that it can stand behind "... differs:". Empty for an empty list.
std::string DifferenceTable(const std::vector<Difference>& differences,
                            std::string_view their_title, std::string_view our_title);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_DIFFERENCES_H_
