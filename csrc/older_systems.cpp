// What the headers of a newer compiler refer to and systems of glibc 2.28 do not have: defined
// here, one library serves them too.
#include <new>

// glibc 2.32: whether a reference count may be changed without an atomic operation. Never.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

// libstdc++ 11: a std::vector of more elements than there are addresses.
namespace std {
[[noreturn]] void __throw_bad_array_new_length();
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std
