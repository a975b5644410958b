// The hostfile: one `HOST slots=N` a line, as `deepspeed` and mpirun users know it.
//
//   # comment                      blank lines and comments are skipped
//   w1 slots=4                     a host with four places for ranks (slots 0 to 3)
//   w[1-3,07-09] slots=2           six hosts: w1 w2 w3 w07 w08 w09
//   w1:7411 slots=2                an agent is already running there and listens on port 7411
//   ada@w1 slots=2                 the ranks run as user ada
//   [::1] slots=2                  IPv6 in brackets (with a port: [::1]:7411)
//
// What follows `slots=N` after a blank is ignored, as `deepspeed` does (`max_slots=8`, notes).
// Where `deepspeed` loses something silently (a second host on the line, slots=0), this parser
// refuses; where it takes a number out of garbage (`slots=4abc`), this parser warns.
// Pure: the caller reads the file.

#ifndef DSRUN_COMMON_CONFIG_HOSTFILE_H_
#define DSRUN_COMMON_CONFIG_HOSTFILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/config/source_text.h"

namespace dsrun {

inline constexpr int kMaxSlotsPerHost = 4096;
inline constexpr int kMaxHosts = 16384;

struct HostEntry {
  std::string host;  // without user and port; IPv6 in its brackets
  std::string user;  // empty: whoever starts the job
  int port = 0;      // of a running agent; 0: none
  int slots = 0;
  int line = 0;  // where it was said, 1-based

  // host, and ":port" where there is one: unique in a hostfile, and what filters and logs say.
  std::string name() const;
  friend bool operator==(const HostEntry&, const HostEntry&) = default;
};

struct Hostfile {
  std::string path;  // as messages say it
  std::vector<HostEntry> hosts;
};

// Findings of one hostfile that are shown; a file that is no hostfile has one on every line.
inline constexpr int kMostHostfileFindings = 20;

// Parses all of it; what is wrong goes to `findings` (errors and warnings, in the order of the
// lines; after the first kMostHostfileFindings only how many more there are), and the hosts that
// were understood are returned all the same.
Hostfile ParseHostfile(const SourceText& text, Findings& findings);

// One `HOST slots=N` a line; parses back to the same hosts.
std::string PrintHostfile(const Hostfile& hostfile);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_HOSTFILE_H_
