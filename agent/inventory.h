// What this node has, read once at the start of the agent. Thread-safe.

#ifndef DSRUN_AGENT_INVENTORY_H_
#define DSRUN_AGENT_INVENTORY_H_

#include "proto/agent.pb.h"

namespace dsrun::agent {

// Never fails: what cannot be read is 0 or empty. CPUs and memory are what this process may use
// (affinity mask, physical memory); GPUs are counted by their device files.
proto::Opened ReadInventory();

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_INVENTORY_H_
