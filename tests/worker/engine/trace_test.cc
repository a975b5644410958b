#include "worker/engine/trace.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace dsrun::worker {
namespace {

TEST(TraceTest, IsJsonWithOneEventPerSpan) {
  Trace trace(/*enabled=*/true, /*rank=*/3);
  EXPECT_EQ(nlohmann::json::parse(trace.Json()).size(), 2u);  // the names of the two rows
  trace.Add(Trace::Lane::kCompute, "backward", absl::Microseconds(10), absl::Microseconds(30));
  trace.Add(Trace::Lane::kCommunication, "reduce", absl::Microseconds(15), absl::Microseconds(20));
  const nlohmann::json events = nlohmann::json::parse(trace.Json());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[2]["name"], "backward");
  EXPECT_EQ(events[2]["pid"], 3);
  EXPECT_EQ(events[2]["ts"], 10.0);
  EXPECT_EQ(events[2]["dur"], 20.0);
  EXPECT_EQ(events[3]["tid"], 1);
}

TEST(TraceTest, Disabled_KeepsNothing) {
  Trace trace(/*enabled=*/false, 0);
  trace.Add(Trace::Lane::kCompute, "backward", absl::Microseconds(10), absl::Microseconds(30));
  EXPECT_EQ(nlohmann::json::parse(trace.Json()).size(), 2u);
}

}  // namespace
}  // namespace dsrun::worker
