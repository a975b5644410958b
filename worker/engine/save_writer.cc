#include "worker/engine/save_writer.h"

#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "worker/checkpoint/checkpoint_writer.h"
#include "worker/checkpoint/granted_commit.h"

namespace dsrun::worker {
namespace {

// Behind whatever trains on the same cores: hashing a large shard takes its time.
constexpr int kNice = 10;
constexpr absl::Duration kPoll = absl::Milliseconds(20);
// Shards that may still be dropped: of the save that is written and few before it.
constexpr size_t kMostWritten = 8;
constexpr size_t kMostAttempts = 64;
// Until the shards of all nodes are seen from here: a network file system may show them late.
constexpr Patience::Limits kVisiblePatience = {
    .first = absl::Milliseconds(50), .most = absl::Seconds(1), .total = absl::Seconds(5)};
// What the last save of a run must get over; the others have the time, too.
constexpr Patience::Limits kErrorPatience = {
    .first = absl::Seconds(1), .most = absl::Seconds(16), .total = absl::Seconds(31)};

// A full disk is no matter of seconds. Where a manifest may be there already, where what was given
// does not fit together, and where shards do not show that the commit has waited for already,
// doing it again makes nothing better.
bool MayPass(const absl::Status& status) {
  return !status.ok() && !absl::IsResourceExhausted(status) && !absl::IsDataLoss(status) &&
         !absl::IsFailedPrecondition(status) && !MayBeCommitted(status);
}

// Generation and step, as SaveWriter's keys.
std::pair<int64_t, int64_t> KeyOf(const proto::SaveId& id) { return {id.generation(), id.step()}; }

}  // namespace

SaveWriter::SaveWriter(Setup setup)
    : setup_(std::move(setup)), thread_(StartThreadOrEnd("the save writer", [this] { Loop(); })) {}

SaveWriter::~SaveWriter() {
  {
    MutexLock lock(mu_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

// ---- The training thread's side

absl::Status SaveWriter::Reserve(size_t bytes) {
  {
    MutexLock lock(mu_);
    if (BufferInUseLocked()) return absl::OkStatus();  // Snapshot does it, when that is through
  }
  return Snapshot(bytes).status();
}

absl::StatusOr<float*> SaveWriter::Snapshot(size_t bytes) {
  {
    MutexLock lock(mu_);
    CHECK(!BufferInUseLocked()) << "the snapshot before is still being written";
  }
  if (buffer_.data() == nullptr || buffer_.bytes() != bytes) {
    buffer_ = Buffer();  // first: both would be more than is planned
    ASSIGN_OR_RETURN(buffer_, setup_.device->Allocate(Space::kHost, bytes, "save_snapshot"));
  }
  return buffer_.floats();
}

void SaveWriter::Write(RankSave save) { Add({std::move(save), Clock::Real().SteadyNow()}); }

void SaveWriter::Fail(const RankSave& save, const absl::Status& why) {
  Add({FailedSave{save, why}, Clock::Real().SteadyNow()});
}

void SaveWriter::OnHost(const proto::HostMessage& message) {
  if (message.has_commit_save()) Add({message.commit_save(), Clock::Real().SteadyNow()});
  if (!message.has_drop_save()) return;
  {
    MutexLock lock(mu_);
    given_up_.insert(KeyOf(message.drop_save().save()));
  }
  Add({message.drop_save(), Clock::Real().SteadyNow()});
}

void SaveWriter::Add(Task task) {
  MutexLock lock(mu_);
  tasks_.push_back(std::move(task));
  changed_.NotifyAll();
}

bool SaveWriter::BufferInUseLocked() const {
  return writing_ || std::any_of(tasks_.begin(), tasks_.end(), IsSave);
}

bool SaveWriter::Busy() const {
  MutexLock lock(mu_);
  return working_ || !tasks_.empty();
}

absl::Duration SaveWriter::AtWorkFor() const {
  MutexLock lock(mu_);
  return working_ ? Clock::Real().SteadyNow() - began_ : absl::ZeroDuration();
}

absl::Status SaveWriter::AwaitBuffer(absl::Duration timeout,
                                     const std::function<bool()>& cancelled) {
  return Await(
      [this] {
        MutexLock lock(mu_);
        return !BufferInUseLocked();
      },
      timeout, cancelled);
}

absl::Status SaveWriter::AwaitIdle(absl::Duration timeout, const std::function<bool()>& cancelled) {
  return Await([this] { return !Busy(); }, timeout, cancelled);
}

// Looks again from time to time: `cancelled` has nobody who would wake us.
absl::Status SaveWriter::Await(const std::function<bool()>& done, absl::Duration timeout,
                               const std::function<bool()>& cancelled) {
  const SteadyTime begin = Clock::Real().SteadyNow();
  while (!done()) {
    if (cancelled()) return absl::AbortedError("this generation is over");
    const absl::Duration waited = Clock::Real().SteadyNow() - begin;
    if (waited >= timeout) {
      return absl::DeadlineExceededError(
          absl::StrCat("the save before is still being written to ", setup_.folder, " after ",
                       absl::FormatDuration(absl::Trunc(waited, absl::Seconds(1)))));
    }
    MutexLock lock(mu_);
    changed_.WaitFor(mu_, kPoll);
  }
  return absl::OkStatus();
}

// ---- Its own thread

void SaveWriter::Loop() {
  (void)pthread_setname_np(pthread_self(), kSaveWriterThread);
  // A refusal changes nothing but who waits for whom.
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // of this thread alone
  while (true) {
    Task task;
    {
      MutexLock lock(mu_);
      working_ = false;
      writing_ = false;
      changed_.NotifyAll();
      while (!stop_ && tasks_.empty()) changed_.Wait(mu_);
      if (stop_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
      working_ = true;
      began_ = Clock::Real().SteadyNow();
      writing_ = IsSave(task);
    }
    std::visit([&](const auto& what) { Do(what, task.given); }, task.what);
  }
}

bool SaveWriter::IsGivenUp(SaveKey save) const {
  MutexLock lock(mu_);
  return stop_ || given_up_.contains(save);
}

Patience SaveWriter::NewPatience(SaveKey save, Patience::Limits limits) const {
  return Patience(
      Clock::Real(),
      [this, save](absl::Duration duration) {
        return setup_.wait(duration, [this, save] { return IsGivenUp(save); });
      },
      limits);
}

absl::Status SaveWriter::Persist(SaveKey save, const std::string& what,
                                 const std::function<absl::Status()>& attempt) {
  Patience patience = NewPatience(save, kErrorPatience);
  absl::Status status = attempt();
  if (MayPass(status) && !IsGivenUp(save)) {
    Warn(Generation(save.first),
         absl::StrCat(what, " could not be written: ", status.message(), "; it is tried again for ",
                      absl::FormatDuration(kErrorPatience.total)));
  }
  while (MayPass(status) && patience.Again()) status = attempt();
  return status;
}

void SaveWriter::Do(const RankSave& save, SteadyTime given) {
  const ShardId id{setup_.facts.job_id,
                   {save.step, save.generation, setup_.facts.incarnation, save.rank}};
  absl::StatusOr<ShardRecord> record = absl::UnknownError("not written yet");
  const std::string what = absl::StrCat("the part of rank ", save.rank.value(),
                                        " of the checkpoint of step ", save.step.value());
  const SaveKey key{save.generation.value(), save.step.value()};
  (void)Persist(key, what, [&] {  // the outcome is in `record`
    // What is left of the attempt before, if it could not be removed then either. Only this process
    // makes files of this name, and nobody has heard of one.
    if (absl::IsAlreadyExists(record.status())) {
      setup_.file_system->RemoveFile(JoinPath(setup_.folder, ShardFileName(id.name))).IgnoreError();
    }
    record = WriteShard(*setup_.file_system, setup_.folder, id, save.slices,
                        save.layout.has_value() ? &*save.layout : nullptr);
    return record.status();
  });
  if (record.ok()) {
    written_[key] = record->file.name;
    if (written_.size() > kMostWritten) written_.erase(written_.begin());
  }
  {
    // The buffer is free before anybody hears of it.
    MutexLock lock(mu_);
    writing_ = false;
  }
  Tell(save,
       record.ok() ? absl::StatusOr<std::string>(record->Serialize())
                   : absl::StatusOr<std::string>(record.status()),
       Clock::Real().SteadyNow() - given);
}

void SaveWriter::Tell(const RankSave& save, const absl::StatusOr<std::string>& record,
                      absl::Duration took) {
  proto::WorkerMessage message;
  proto::ShardWritten* const written = message.mutable_shard_written();
  written->mutable_save()->set_step(save.step.value());
  written->mutable_save()->set_generation(save.generation.value());
  written->set_rank(save.rank.value());
  written->set_width(save.width);
  written->set_samples(save.samples);
  if (record.ok()) {
    written->set_record(*record);
  } else {
    written->set_error(std::string(record.status().message()));
    written->set_code(record.status().raw_code());
    LOG(WARNING) << "save of step " << save.step << ": " << record.status().message();
  }
  written->set_seconds(absl::ToDoubleSeconds(took));
  setup_.send(save.generation, std::move(message));
}

void SaveWriter::Do(const FailedSave& failed, SteadyTime given) {
  Tell(failed.save, failed.why, Clock::Real().SteadyNow() - given);
}

void SaveWriter::Do(const proto::CommitSave& commit, SteadyTime given) {
  if (!attempts_.insert(commit.attempt()).second) return;  // a repeat
  if (attempts_.size() > kMostAttempts) attempts_.erase(attempts_.begin());
  ManifestFacts facts = setup_.facts;
  facts.key = {Step(commit.save().step()), Generation(commit.save().generation()),
               commit.attempt()};
  facts.counters = {commit.samples(), commit.save().step()};
  const std::vector<std::string> records(commit.records().begin(), commit.records().end());
  GrantedCommit outcome;
  const SaveKey key = KeyOf(commit.save());
  (void)Persist(
      key,  // the outcome is in `outcome`
      absl::StrCat("the manifest of the checkpoint of step ", facts.key.step.value()), [&] {
        Patience patience = NewPatience(key, kVisiblePatience);
        outcome = CommitGranted(*setup_.file_system, setup_.folder, facts, records, &patience);
        return outcome.status;
      });
  proto::WorkerMessage message;
  proto::CommitDone* const done = message.mutable_commit_done();
  *done->mutable_save() = commit.save();
  done->set_attempt(commit.attempt());
  done->set_manifest(outcome.manifest);
  done->set_error(std::string(outcome.status.message()));
  done->set_code(outcome.status.raw_code());
  done->set_seconds(absl::ToDoubleSeconds(Clock::Real().SteadyNow() - given));
  setup_.send(facts.key.generation, std::move(message));
  if (!outcome.status.ok()) return;
  committed_.insert(key);
  if (committed_.size() > kMostAttempts) committed_.erase(committed_.begin());
  Tidy(commit);
}

void SaveWriter::Tidy(const proto::CommitSave& commit) {
  const Generation generation(commit.save().generation());
  PruneOptions prune = setup_.prune;
  // Whoever wrote a part of this save has nothing older under way but what the grant names.
  prune.generation = generation;
  if (commit.has_loaded()) {
    prune.running.push_back(
        {Step(commit.loaded().step()), Generation(commit.loaded().generation())});
  }
  for (const proto::SaveId& id : commit.running()) {
    if (committed_.contains(KeyOf(id))) continue;  // since the grant was given
    prune.running.push_back({Step(id.step()), Generation(id.generation())});
  }
  const auto removed = PruneCheckpoints(*setup_.file_system, setup_.folder, prune);
  if (!removed.ok()) {
    Warn(generation, absl::StrCat("OLD CHECKPOINTS ARE NOT REMOVED: ", removed.status().message()));
  }
}

void SaveWriter::Warn(Generation generation, const std::string& text) {
  LOG(WARNING) << text;
  proto::WorkerMessage message;
  message.mutable_notice()->set_warning(true);
  message.mutable_notice()->set_text(text);
  setup_.send(generation, std::move(message));
}

void SaveWriter::Do(const proto::DropSave& drop, SteadyTime) {
  const SaveKey key = KeyOf(drop.save());
  {
    MutexLock lock(mu_);
    given_up_.erase(key);
  }
  const auto shard = written_.find(key);
  if (shard == written_.end()) return;
  const std::string file = shard->second;
  written_.erase(shard);
  // The coordinator has made sure; but what a manifest names is never removed.
  const absl::StatusOr<std::string> manifest =
      ManifestOfSave(*setup_.file_system, setup_.folder, setup_.facts.job_id, Step(key.second),
                     Generation(key.first));
  if (!manifest.ok() || !manifest->empty()) {
    LOG(WARNING) << "shard " << file << " of a save that was given up stays: "
                 << (manifest.ok() ? *manifest : std::string(manifest.status().message()));
    return;
  }
  const absl::Status removed = setup_.file_system->RemoveFile(JoinPath(setup_.folder, file));
  if (!removed.ok() && !absl::IsNotFound(removed)) {  // pruned already
    LOG(WARNING) << "shard of a save that was given up stays: " << removed.message();
  }
}

}  // namespace dsrun::worker
