// The anonymous file that clients map: made, sized, and its header of counters written.
#include "gpu/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace vkv::gpu {

using offload::kSlabBytes;

Arena::Arena(size_t bytes) : bytes_((bytes + kSlabBytes - 1) / kSlabBytes * kSlabBytes)
{
    const auto fail = [&](const char *what) {
        const int error = errno;
        if (fd_ >= 0) ::close(fd_);
        throw std::runtime_error(std::string("could not ") + what + " an arena of " + std::to_string(bytes_) +
                                 " bytes: " + std::strerror(error));
    };
    fd_ = ::memfd_create("vectorkv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd_ < 0) fail("make");
    if (::ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) fail("size");
    if (::fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) fail("seal");
    void *map = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_, 0);
    if (map == MAP_FAILED) fail("map");
    base_ = static_cast<uint8_t *>(map);
    auto &head = header();
    head.version = offload::kVersion;
    head.arena_bytes = bytes_;
    head.helper_pid = static_cast<uint64_t>(::getpid());
}

Arena::~Arena()
{
    ::munmap(base_, bytes_);
    ::close(fd_);
}

}  // namespace vkv::gpu
