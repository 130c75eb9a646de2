// What most sources include of the language and of the compiler: setup.py has it compiled once for
// every set of flags.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifndef RNNFAST_ISA  // the operators, whose headers would only delay the kernels
#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>
#endif
