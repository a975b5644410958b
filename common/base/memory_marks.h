// Words by which whoever reads of a failure knows that memory was its cause: those who write them
// and those who look for them have them from here. Pure.

#ifndef DSRUN_COMMON_BASE_MEMORY_MARKS_H_
#define DSRUN_COMMON_BASE_MEMORY_MARKS_H_

namespace dsrun {

// A device that refuses an allocation (worker/device).
inline constexpr char kMemoryRefused[] = " bytes of host memory, got ";
// An agent whose rank the kernel's out-of-memory killer has ended (machine_memory.h).
inline constexpr char kKilledForMemory[] = "killed for want of memory";
// A program that ends because the system gives it none (limits.h), on standard error.
inline constexpr char kOutOfMemory[] = "out of memory";

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_MEMORY_MARKS_H_
