// Closing all descriptors from a number on, in a process that has just been made. Allocates nothing
// and takes no lock: for the child of a vfork, too.

#ifndef DSRUN_COMMON_BASE_CLOSE_FROM_H_
#define DSRUN_COMMON_BASE_CLOSE_FROM_H_

namespace dsrun {

// Closes every descriptor from `first` on. False: they stay open, for neither close_range nor /proc
// is there.
bool CloseFrom(int first);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_CLOSE_FROM_H_
