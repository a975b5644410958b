// What events cost the core of a large job, in work that is counted and not in time: 4 times the
// ranks may take about 4 times the work for all their events together. What looked at all ranks at
// each rank's event, or copied the plan for each node, would take 16 times as much.
//
// Counted is the memory that is asked for (calls and bytes) from Step to the actions' end. A walk
// that asks for none is not seen: bench/coordinator_bench is for that.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <new>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"

namespace {

std::atomic<int64_t> allocations{0};
std::atomic<int64_t> allocated_bytes{0};

void* Allocate(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes.fetch_add(static_cast<int64_t>(size), std::memory_order_relaxed);
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void* operator new[](std::size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace dsrun::launcher {
namespace {

constexpr int kSlots = 8;
constexpr int kFewNodes = 64;
constexpr int kTimes = 4;
// As many times the work, and a little for the logarithms and for arrays that grow by doubling.
constexpr double kAtMost = 5.5;

struct Work {
  int64_t calls = 0;
  int64_t bytes = 0;
};

// A job of our own engine whose agents are there.
class BigJob {
 public:
  explicit BigJob(int nodes) : nodes_(nodes), core_(ConfigOf(nodes)) {
    Hear(Start{});
    for (int node = 0; node < nodes_; ++node) {
      proto::AgentMessage opened = InForce();
      opened.mutable_opened();
      Hear(AgentSpoke{NodeId(node), std::move(opened)});
    }
  }

  std::vector<Event> Prepared() const {
    std::vector<Event> events;
    for (int node = 0; node < nodes_; ++node) {
      proto::AgentMessage prepared = InForce();
      prepared.mutable_prepared();
      events.push_back(AgentSpoke{NodeId(node), std::move(prepared)});
    }
    return events;
  }
  // A report of every rank, as `fill` makes it.
  template <typename Fill>
  std::vector<Event> OfEach(const Fill& fill) const {
    std::vector<Event> events;
    for (int rank = 0; rank < nodes_ * kSlots; ++rank) {
      proto::AgentMessage message = InForce();
      proto::WorkerReport& report = *message.mutable_worker_report();
      report.set_slot(rank % kSlots);
      report.mutable_message()->set_generation(core_.generation().value());
      fill(rank, *report.mutable_message());
      events.push_back(AgentSpoke{NodeId(rank / kSlots), std::move(message)});
    }
    return events;
  }
  Work Count(const std::vector<Event>& events) {
    const int64_t calls = allocations;
    const int64_t bytes = allocated_bytes;
    for (const Event& event : events) Hear(event);
    return {allocations - calls, allocated_bytes - bytes};
  }
  void Run() {
    for (const Event& event : Prepared()) Hear(event);
    for (const Event& event : OfEach([](int rank, proto::WorkerMessage&message) {
           message.mutable_exchange_put()->set_rank(rank);
           message.mutable_exchange_put()->set_name("connected");
           message.mutable_exchange_put()->set_value("address");
         })) {
      Hear(event);
    }
    for (const Event& event :
         OfEach([](int, proto::WorkerMessage& message) { message.mutable_joined(); })) {
      Hear(event);
    }
  }
  void Pass(absl::Duration time) { now_ += time; }
  int ranks() const { return nodes_ * kSlots; }
  const Coordinator& core() const { return core_; }
  int sent() const { return sent_; }

 private:
  static CoordinatorConfig ConfigOf(int nodes) {
    CoordinatorConfig config;
    config.job_id = "work";
    for (int node = 0; node < nodes; ++node) {
      CoordinatorConfig::Node& made = config.nodes.emplace_back();
      made.host = absl::StrCat("node-", node);
      for (int slot = 0; slot < kSlots; ++slot) made.slots.push_back(Slot(slot));
    }
    config.is_train = true;
    config.max_width = nodes * kSlots;
    return config;
  }
  proto::AgentMessage InForce() const {
    proto::AgentMessage message;
    message.set_generation(core_.generation().value());
    return message;
  }
  void Hear(const Event& event) {
    std::deque<Event> waiting = {event};
    while (!waiting.empty()) {
      const Event next = std::move(waiting.front());
      waiting.pop_front();
      now_ += absl::Microseconds(1);
      for (const Action& action : core_.Step(now_, next)) {
        sent_ += std::holds_alternative<SendToAgent>(action);
        if (const auto* raise = std::get_if<Raise>(&action)) {
          std::visit([&](const auto& each) { waiting.push_back(each); }, raise->event);
        }
      }
    }
  }

  const int nodes_;
  Coordinator core_;
  absl::Duration now_ = absl::Seconds(1);
  int sent_ = 0;
};

void ExpectLinear(const Work& few, const Work& many) {
  EXPECT_LE(static_cast<double>(many.calls), kAtMost * static_cast<double>(few.calls))
      << few.calls << " allocations for " << kFewNodes << " nodes";
  EXPECT_LE(static_cast<double>(many.bytes), kAtMost * static_cast<double>(few.bytes))
      << few.bytes << " bytes for " << kFewNodes << " nodes";
  EXPECT_GT(few.calls, 0);
}

TEST(WorkOfTheCore, ThePlanOfAGeneration_IsMadeOnceAndNotForEachNode) {
  BigJob few(kFewNodes), many(kFewNodes * kTimes);
  const Work of_few = few.Count(few.Prepared());
  const int sent = many.sent();
  const Work of_many = many.Count(many.Prepared());
  EXPECT_GE(many.sent() - sent, kFewNodes * kTimes) << "the plan went out";
  ExpectLinear(of_few, of_many);
}

TEST(WorkOfTheCore, TheTableOfAllAddresses_IsMadeOnceAndNotForEachNode) {
  BigJob few(kFewNodes), many(kFewNodes * kTimes);
  const auto put = [](int rank, proto::WorkerMessage& message) {
    message.mutable_exchange_put()->set_rank(rank);
    message.mutable_exchange_put()->set_name("connected");
    message.mutable_exchange_put()->set_value(std::string(64, 'a'));
  };
  few.Count(few.Prepared());
  many.Count(many.Prepared());
  const int sent = many.sent();
  const Work of_few = few.Count(few.OfEach(put));
  const Work of_many = many.Count(many.OfEach(put));
  EXPECT_EQ(many.sent() - sent, kFewNodes * kTimes) << "the table went out";
  ExpectLinear(of_few, of_many);
}

TEST(WorkOfTheCore, TheTableOfAGroup_IsMadeOnceAndItsRanksAreNotFoundAtEveryPut) {
  BigJob few(kFewNodes), many(kFewNodes * kTimes);
  const auto put = [](int rank, proto::WorkerMessage& message) {
    message.mutable_exchange_put()->set_rank(rank);
    message.mutable_exchange_put()->set_group("dp@0");  // all of them
    message.mutable_exchange_put()->set_name("communicator");
    message.mutable_exchange_put()->set_value(std::string(64, 'a'));
  };
  few.Run();
  many.Run();
  const int sent = many.sent();
  const Work of_few = few.Count(few.OfEach(put));
  const Work of_many = many.Count(many.OfEach(put));
  EXPECT_EQ(many.sent() - sent, kFewNodes * kTimes) << "the table went out";
  ExpectLinear(of_few, of_many);
}

TEST(WorkOfTheCore, AStepOfEveryRank_LooksAtNoOther) {
  BigJob few(kFewNodes), many(kFewNodes * kTimes);
  few.Run();
  many.Run();
  const auto done = [](int, proto::WorkerMessage& message) {
    message.mutable_step_done()->set_step(1);
  };
  ExpectLinear(few.Count(few.OfEach(done)), many.Count(many.OfEach(done)));
}

TEST(WorkOfTheCore, ReportsOfEveryRankAndTheCauseAmongThem_LookAtNoOther) {
  BigJob few(kFewNodes), many(kFewNodes * kTimes);
  const auto work_of = [](BigJob& job) {
    job.Run();
    Work work = job.Count(job.OfEach([&job](int rank, proto::WorkerMessage& message) {
      proto::Failed& failed = *message.mutable_failed();
      failed.set_code(4);  // DEADLINE_EXCEEDED
      failed.set_message("rank waited in vain");
      failed.set_peer_rank((rank + 1) % job.ranks());
    }));
    job.Pass(absl::Seconds(2));
    const Work choice = job.Count({Tick{}, Tick{}});
    return Work{work.calls + choice.calls, work.bytes + choice.bytes};
  };
  const Work of_few = work_of(few);
  const Generation before = many.core().generation();
  const Work of_many = work_of(many);
  EXPECT_GT(many.core().generation(), before) << "a cause was chosen";
  ExpectLinear(of_few, of_many);
}

}  // namespace
}  // namespace dsrun::launcher
