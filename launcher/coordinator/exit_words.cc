#include "launcher/coordinator/exit_words.h"

#include <array>
#include <string>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {
namespace {

struct SignalEntry {
  int number;  // Linux, x86-64 and arm64
  const char* name;
  const char* hint;
  bool own = false;   // the process brings it on itself
  bool stop = false;  // asks for an end
};

constexpr std::array kSignals = {
    SignalEntry{1, "SIGHUP", "its terminal went away", false, true},
    SignalEntry{2, "SIGINT", "Ctrl-C", false, true},
    SignalEntry{3, "SIGQUIT", "", false, true},
    SignalEntry{4, "SIGILL", "an instruction this CPU does not have, or memory overwritten", true},
    SignalEntry{5, "SIGTRAP", "", true},
    SignalEntry{6, "SIGABRT", "a failed check or abort(); its last lines say which", true},
    SignalEntry{7, "SIGBUS", "a mapped file got shorter, or /dev/shm is full", true},
    SignalEntry{8, "SIGFPE", "integer division by zero", true},
    SignalEntry{9, "SIGKILL", "kill -9, or the kernel's out-of-memory killer"},
    SignalEntry{10, "SIGUSR1", "", false, true},
    SignalEntry{11, "SIGSEGV", "invalid memory access", true},
    SignalEntry{12, "SIGUSR2", "", false, true},
    SignalEntry{13, "SIGPIPE", "wrote to a closed pipe", true},
    SignalEntry{14, "SIGALRM", ""},
    SignalEntry{15, "SIGTERM", "asked to stop", false, true},
    SignalEntry{24, "SIGXCPU", "its CPU time limit", true},
    SignalEntry{25, "SIGXFSZ", "its file size limit", true},
    SignalEntry{31, "SIGSYS", "a system call that is not allowed", true},
};

const SignalEntry* FindSignal(int signal) {
  for (const SignalEntry& entry : kSignals) {
    if (entry.number == signal) return &entry;
  }
  return nullptr;
}

}  // namespace

std::string SignalName(int signal) {
  const SignalEntry* entry = FindSignal(signal);
  return entry != nullptr ? entry->name : absl::StrCat("signal ", signal);
}

bool IsOwnSignal(int signal) {
  const SignalEntry* entry = FindSignal(signal);
  return entry != nullptr && entry->own;
}

bool IsStopSignal(int signal) {
  const SignalEntry* entry = FindSignal(signal);
  return entry != nullptr && entry->stop;
}

std::string ExitWords(int exit_code, int term_signal, bool core_dumped) {
  if (term_signal != 0) {
    const SignalEntry* entry = FindSignal(term_signal);
    std::string words = absl::StrCat("killed by signal ", term_signal);
    if (entry != nullptr) {
      absl::StrAppend(&words, " (", entry->name, *entry->hint != '\0' ? ": " : "", entry->hint,
                      ")");
    }
    if (core_dumped) absl::StrAppend(&words, ", core dumped");
    return words;
  }
  std::string words = absl::StrCat("exited with code ", exit_code);
  if (exit_code == 126) absl::StrAppend(&words, " (could not be executed)");
  if (exit_code == 127) absl::StrAppend(&words, " (not found)");
  if (exit_code > 128 && exit_code < 128 + 65) {
    absl::StrAppend(&words, " (128 + ", exit_code - 128, ": a child of it was ended by ",
                    SignalName(exit_code - 128), ")");
  }
  return words;
}

int ShellExitCode(int exit_code, int term_signal) {
  constexpr int kMost = 255;
  if (term_signal != 0) return term_signal > 0 && term_signal < 128 ? 128 + term_signal : kMost;
  return exit_code >= 0 && exit_code <= kMost ? exit_code : kMost;
}

}  // namespace dsrun::launcher
