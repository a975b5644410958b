// What ranks wrote, made fit for a terminal, and how wide text is there.
//
// A rank may write anything. Raw, it could clear the screen, put a line above that looks like
// dsrun's own, or leave the terminal in a state of its own. So everything that moves the cursor,
// talks to the terminal or turns the reading direction around is spelt out: "\x1b[2J". Colours stay
// (ESC [ numbers m), and end with the text they are in. Files and pipes get the bytes as they are.
// Pure.

#ifndef DSRUN_LAUNCHER_CONSOLE_TERMINAL_TEXT_H_
#define DSRUN_LAUNCHER_CONSOLE_TERMINAL_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace dsrun::launcher {

// `text` is a line, or a part of one; a newline in it is spelt out, too.
std::string TerminalText(std::string_view text);
// A part of a line that is in `colours` when it begins, which holds those it ends in.
std::string TerminalText(std::string_view text, std::string& colours);

// `text`, as TerminalText makes it, in rows of `columns` that we begin ourselves: a terminal that
// wraps a line lets its next row begin with whatever the rank likes, also with words of dsrun's, if
// the rank fills the row before up to the window's width. Where a letter does not fit, a newline
// and kContinued come first. Tabs become spaces, up to the next multiple of 8.
// `column`: where the cursor stands, before and after. Widths are those of Columns, and one for a
// letter that is put onto another, as some terminals do not. What a window of another size makes of
// the rows later is its own.
std::string InRows(std::string_view text, size_t columns, size_t& column);
inline constexpr char kContinued[] = "  ";
// Narrower windows are taken for this: dsrun's own "dsrun: " would not fit either.
inline constexpr size_t kFewestColumns = 8;

// How much of `text` is whole: at its end there may be half a letter or half a colour, whose rest
// comes later.
size_t WholeBytes(std::string_view text);

// How many columns `text` takes: two for a wide letter, none for one that is put onto another. A
// tab and whatever else has no width of its own counts as one.
size_t Columns(std::string_view text);
// As much of the beginning as fits, in whole letters.
std::string_view FirstColumns(std::string_view text, size_t columns);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_CONSOLE_TERMINAL_TEXT_H_
