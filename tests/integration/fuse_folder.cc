#include "tests/integration/fuse_folder.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tests/integration/private_mounts.h"

namespace dsrun {
namespace {

constexpr uint32_t kMostWritten = 128 << 10;
constexpr uint64_t kRoot = 1;

absl::Status Failed(const std::string& what) {
  return absl::PermissionDeniedError("cannot " + what + " here: " + strerror(errno));
}

}  // namespace

struct FuseFolder::Request {
  const fuse_in_header* header;
  const char* body;

  template <typename T>
  const T& As() const {
    return *reinterpret_cast<const T*>(body);
  }
  // The name behind a structure.
  template <typename T>
  const char* NameBehind() const {
    return body + sizeof(T);
  }
};

absl::StatusOr<std::unique_ptr<FuseFolder>> FuseFolder::Mount(const std::string& folder,
                                                              const Options& options) {
  if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
  std::filesystem::create_directories(folder);
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) return Failed("open /dev/fuse");
  const std::string how = "fd=" + std::to_string(fd) +
                          ",rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions";
  if (mount("dsrun-test", folder.c_str(), "fuse", 0, how.c_str()) != 0) {
    const absl::Status failed = Failed("mount a FUSE file system");
    close(fd);
    return failed;
  }
  return std::unique_ptr<FuseFolder>(new FuseFolder(folder, options, fd));
}

FuseFolder::FuseFolder(std::string folder, const Options& options, int fd)
    : folder_(std::move(folder)), options_(options), fd_(fd) {
  Node root;
  root.is_folder = true;
  root.mode = S_IFDIR | 0777;
  nodes_[kRoot] = root;
  server_ = std::thread([this] { Serve(); });
}

FuseFolder::~FuseFolder() {
  umount2(folder_.c_str(), MNT_DETACH);
  server_.join();
  close(fd_);
}

void FuseFolder::Serve() {
  std::vector<char> buffer(kMostWritten + 4096);
  while (true) {
    const ssize_t size = read(fd_, buffer.data(), buffer.size());
    if (size < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT)) continue;
    if (size < static_cast<ssize_t>(sizeof(fuse_in_header))) return;  // ENODEV: unmounted
    const auto* header = reinterpret_cast<const fuse_in_header*>(buffer.data());
    Answer({header, buffer.data() + sizeof(fuse_in_header)});
  }
}

void FuseFolder::Reply(uint64_t unique, const void* data, size_t size) {
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + size);
  header.unique = unique;
  iovec parts[] = {{&header, sizeof(header)}, {const_cast<void*>(data), size}};
  (void)!writev(fd_, parts, 2);
}

void FuseFolder::ReplyError(uint64_t unique, int error) {
  fuse_out_header header = {};
  header.len = sizeof(header);
  header.error = -error;
  header.unique = unique;
  (void)!write(fd_, &header, sizeof(header));
}

namespace {

fuse_attr AttributesOf(uint64_t number, uint32_t mode, uint64_t bytes, uint32_t links) {
  fuse_attr attributes = {};
  attributes.ino = number;
  attributes.mode = mode;
  attributes.size = bytes;
  attributes.blocks = (bytes + 511) / 512;
  attributes.nlink = links;
  attributes.blksize = 4096;
  return attributes;
}

}  // namespace

void FuseFolder::ReplyEntry(uint64_t unique, uint64_t number, bool opened) {
  const Node& node = nodes_[number];
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out = {};
  out.entry.nodeid = number;  // nothing is cached: every look comes here
  out.entry.attr = AttributesOf(number, node.mode, node.data.size(), node.links);
  Reply(unique, &out, opened ? sizeof(out) : sizeof(out.entry));
}

void FuseFolder::ReplyAttributes(uint64_t unique, uint64_t number) {
  const Node& node = nodes_[number];
  fuse_attr_out out = {};
  out.attr = AttributesOf(number, node.mode, node.data.size(), node.links);
  Reply(unique, &out, sizeof(out));
}

bool FuseFolder::IsSeen(Name& name, uint32_t thread) {
  if (!hides_ || name.looks_left <= 0 || name.maker == thread) return true;
  --name.looks_left;
  ++hidden_;
  return false;
}

uint64_t FuseFolder::Add(uint64_t parent, const std::string& name, const Node& node,
                         uint32_t thread) {
  const uint64_t number = next_node_++;
  nodes_[number] = node;
  nodes_[number].made_as = name;
  nodes_[parent].names[name] = {number, thread, options_.hidden_looks};
  return number;
}

void FuseFolder::AnswerAll() {
  const std::lock_guard<std::mutex> lock(unanswered_mu_);
  answers_all_ = true;
  for (const uint64_t unique : unanswered_) ReplyError(unique, ENOENT);
  unanswered_.clear();
  waiting_ = 0;
}

void FuseFolder::Lookup(const Request& request) {
  if (!options_.unanswered.empty() && options_.unanswered == request.body) {
    const std::lock_guard<std::mutex> lock(unanswered_mu_);
    if (answers_all_) return ReplyError(request.header->unique, ENOENT);
    unanswered_.push_back(request.header->unique);
    ++waiting_;
    return;
  }
  std::map<std::string, Name>& names = nodes_[request.header->nodeid].names;
  const auto found = names.find(request.body);
  if (found == names.end() || !IsSeen(found->second, request.header->pid)) {
    return ReplyError(request.header->unique, ENOENT);
  }
  ReplyEntry(request.header->unique, found->second.node, /*opened=*/false);
}

void FuseFolder::SetAttributes(const Request& request) {
  const auto& in = request.As<fuse_setattr_in>();
  Node& node = nodes_[request.header->nodeid];
  if ((in.valid & FATTR_SIZE) != 0) node.data.resize(in.size);
  if ((in.valid & FATTR_MODE) != 0) node.mode = (node.mode & S_IFMT) | (in.mode & 07777);
  ReplyAttributes(request.header->unique, request.header->nodeid);
}

void FuseFolder::ReadNames(const Request& request) {
  const auto& in = request.As<fuse_read_in>();
  std::string out;
  uint64_t at = 0;
  for (auto& [name, entry] : nodes_[request.header->nodeid].names) {
    if (at++ < in.offset || !IsSeen(entry, request.header->pid)) continue;
    const size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name.size());
    if (out.size() + size > in.size) break;
    std::string bytes(size, '\0');
    auto* dirent = reinterpret_cast<fuse_dirent*>(bytes.data());
    dirent->ino = entry.node;
    dirent->off = at;
    dirent->namelen = static_cast<uint32_t>(name.size());
    std::memcpy(bytes.data() + FUSE_NAME_OFFSET, name.data(), name.size());
    out += bytes;
  }
  Reply(request.header->unique, out.data(), out.size());
}

void FuseFolder::Rename(const Request& request, uint64_t to_folder, const char* names,
                        bool exclusive) {
  const std::string from = names;
  const std::string to = names + from.size() + 1;
  if (exclusive && !options_.exclusive_rename) {
    ++refused_;
    return ReplyError(request.header->unique, EINVAL);
  }
  std::map<std::string, Name>& source = nodes_[request.header->nodeid].names;
  std::map<std::string, Name>& target = nodes_[to_folder].names;
  const auto found = source.find(from);
  if (found == source.end()) return ReplyError(request.header->unique, ENOENT);
  if (exclusive && target.contains(to)) return ReplyError(request.header->unique, EEXIST);
  target[to] = {found->second.node, request.header->pid, options_.hidden_looks};
  source.erase(from);
  if (options_.answers_twice) ++answered_twice_;
  ReplyError(request.header->unique, options_.answers_twice ? ENOENT : 0);
}

void FuseFolder::Link(const Request& request) {
  if (!options_.hard_links) {
    ++refused_;
    return ReplyError(request.header->unique, EPERM);
  }
  const uint64_t node = request.As<fuse_link_in>().oldnodeid;
  std::map<std::string, Name>& names = nodes_[request.header->nodeid].names;
  const std::string name = request.NameBehind<fuse_link_in>();
  if (names.contains(name)) return ReplyError(request.header->unique, EEXIST);
  names[name] = {node, request.header->pid, options_.hidden_looks};
  ++nodes_[node].links;
  if (!options_.answers_twice) return ReplyEntry(request.header->unique, node, /*opened=*/false);
  ++answered_twice_;
  ReplyError(request.header->unique, EEXIST);
}

void FuseFolder::Unlink(const Request& request) {
  std::map<std::string, Name>& names = nodes_[request.header->nodeid].names;
  const auto found = names.find(request.body);
  if (found == names.end()) return ReplyError(request.header->unique, ENOENT);
  --nodes_[found->second.node].links;
  names.erase(found);
  if (options_.answers_twice) ++answered_twice_;
  ReplyError(request.header->unique, options_.answers_twice ? ENOENT : 0);
}

void FuseFolder::Sync(const Request& request) {
  const bool counts = nodes_[request.header->nodeid].made_as.starts_with(options_.synced);
  if (!counts || ++syncs_ != options_.held_sync) return ReplyError(request.header->unique, 0);
  held_request_ = request.header->unique;
  held_thread_ = request.header->pid;
}

void FuseFolder::LetGo() {
  if (held_thread_.exchange(0) != 0) ReplyError(held_request_, 0);
  std::lock_guard lock(unanswered_mu_);
  holds_writes_ = false;
  for (const auto& [unique, size] : held_writes_) ReplyWritten(unique, size);
  held_writes_.clear();
}

void FuseFolder::Write(const Request& request) {
  const auto& in = request.As<fuse_write_in>();
  Node& node = nodes_[request.header->nodeid];
  node.data.resize(std::max<size_t>(node.data.size(), in.offset + in.size));
  std::memcpy(node.data.data() + in.offset, request.body + sizeof(in), in.size);
  std::lock_guard lock(unanswered_mu_);
  if (holds_writes_ && !options_.held_writes.empty() &&
      node.made_as.starts_with(options_.held_writes)) {
    held_writes_[request.header->unique] = in.size;
    ++writes_waiting_;
    return;
  }
  ReplyWritten(request.header->unique, in.size);
}

void FuseFolder::ReplyWritten(uint64_t unique, uint32_t size) {
  fuse_write_out out = {};
  out.size = size;
  Reply(unique, &out, sizeof(out));
}

void FuseFolder::Answer(const Request& request) {
  const fuse_in_header& header = *request.header;
  const uint64_t unique = header.unique;
  switch (header.opcode) {
    case FUSE_INIT: {
      fuse_init_out out = {};
      out.major = FUSE_KERNEL_VERSION;
      out.minor = std::min<uint32_t>(request.As<fuse_init_in>().minor, FUSE_KERNEL_MINOR_VERSION);
      out.max_readahead = request.As<fuse_init_in>().max_readahead;
      out.flags = FUSE_BIG_WRITES;
      out.max_write = kMostWritten;
      return Reply(unique, &out, sizeof(out));
    }
    case FUSE_LOOKUP:
      return Lookup(request);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
      return;  // they have no answer
    case FUSE_GETATTR:
      return ReplyAttributes(unique, header.nodeid);
    case FUSE_SETATTR:
      return SetAttributes(request);
    case FUSE_MKDIR: {
      Node node;
      node.is_folder = true;
      node.mode = S_IFDIR | (request.As<fuse_mkdir_in>().mode & 07777);
      const uint64_t made =
          Add(header.nodeid, request.NameBehind<fuse_mkdir_in>(), node, header.pid);
      return ReplyEntry(unique, made, /*opened=*/false);
    }
    case FUSE_CREATE: {
      // The kernel has looked; a name that it was not shown is there all the same.
      const char* const name = request.NameBehind<fuse_create_in>();
      const auto& in = request.As<fuse_create_in>();
      std::map<std::string, Name>& names = nodes_[header.nodeid].names;
      if (const auto found = names.find(name); found != names.end()) {
        if ((in.flags & O_EXCL) != 0) return ReplyError(unique, EEXIST);
        if ((in.flags & O_TRUNC) != 0) nodes_[found->second.node].data.clear();
        return ReplyEntry(unique, found->second.node, /*opened=*/true);
      }
      Node node;
      node.mode = S_IFREG | (in.mode & 07777);
      return ReplyEntry(unique, Add(header.nodeid, name, node, header.pid), /*opened=*/true);
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
      const fuse_open_out out = {};
      return Reply(unique, &out, sizeof(out));
    }
    case FUSE_READ: {
      const auto& in = request.As<fuse_read_in>();
      const std::string& data = nodes_[header.nodeid].data;
      const size_t begin = std::min<size_t>(in.offset, data.size());
      return Reply(unique, data.data() + begin, std::min<size_t>(in.size, data.size() - begin));
    }
    case FUSE_WRITE:
      return Write(request);
    case FUSE_READDIR:
      return ReadNames(request);
    case FUSE_UNLINK:
      return Unlink(request);
    case FUSE_RENAME:
      return Rename(request, request.As<fuse_rename_in>().newdir,
                    request.NameBehind<fuse_rename_in>(), /*exclusive=*/false);
    case FUSE_RENAME2:
      return Rename(request, request.As<fuse_rename2_in>().newdir,
                    request.NameBehind<fuse_rename2_in>(),
                    request.As<fuse_rename2_in>().flags != 0);
    case FUSE_LINK:
      return Link(request);
    case FUSE_STATFS: {
      fuse_statfs_out out = {};
      out.st.bsize = 4096;
      out.st.blocks = out.st.bfree = out.st.bavail = 1 << 20;
      out.st.namelen = 255;
      return Reply(unique, &out, sizeof(out));
    }
    case FUSE_FSYNC:
      return Sync(request);
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_DESTROY:
      return ReplyError(unique, 0);
    default:
      return ReplyError(unique, ENOSYS);
  }
}

}  // namespace dsrun
