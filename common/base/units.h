// Numbers as people read them. Pure.

#ifndef DSRUN_COMMON_BASE_UNITS_H_
#define DSRUN_COMMON_BASE_UNITS_H_

#include <cstdint>
#include <string>

namespace dsrun {

// "512 B", "7.1 MiB", "24.0 GiB"
std::string BytesText(int64_t bytes);
// "1,853,568"
std::string CountText(int64_t count);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_UNITS_H_
