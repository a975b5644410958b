// The whole of a file of /proc, whose process may end at any moment: between open and read, too,
// and the read fails then (ESRCH), which a stream's iterators answer with an exception.

#ifndef DSRUN_COMMON_BASE_PROC_FILE_H_
#define DSRUN_COMMON_BASE_PROC_FILE_H_

#include <string>

namespace dsrun {

// Of errno, after an open: what may be there, and cannot be looked at now. Not EPERM and EACCES: a
// hidden process.
bool MeansUnsure(int error);

// What could be read of it; empty: nothing. `unsure`, if given, is set where MeansUnsure says
// so. Throws nothing. Thread-safe.
std::string ReadProcFile(const std::string& path, bool* unsure = nullptr);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROC_FILE_H_
