// What `dsrun --help` and docs/cli.md say, from the table of options. Pure.

#ifndef DSRUN_LAUNCHER_COMMANDS_HELP_H_
#define DSRUN_LAUNCHER_COMMANDS_HELP_H_

#include <string>

namespace dsrun::launcher {

// For a terminal: what to type, examples, then the flags. `train`: those of train, else the
// launcher's.
std::string HelpText(bool train);
// `dsrun plan --help`: examples, then the flags that bytes depend on.
std::string PlanHelpText();
// docs/cli.md, whole.
std::string HelpMarkdown();
std::string VersionText();

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COMMANDS_HELP_H_
