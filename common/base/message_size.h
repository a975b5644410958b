// How large one message between dsrun, dsagent and dsworker may be. The largest one by far is the
// grant of a commit (proto/worker.proto, CommitSave): the records of all shards of a save, which
// grow with ranks x tensors and, for small --bucket-bytes, with the pieces of the tensors: 86 MiB
// for 1000 ranks of a 1.5 billion parameter model. One that is larger ends the stream that carries
// it, so whoever makes one that may become so large looks first.

#ifndef DSRUN_COMMON_BASE_MESSAGE_SIZE_H_
#define DSRUN_COMMON_BASE_MESSAGE_SIZE_H_

namespace dsrun {

inline constexpr int kMaxMessageBytes = 256 << 20;

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_MESSAGE_SIZE_H_
