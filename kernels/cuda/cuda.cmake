# SPDX-License-Identifier: Apache-2.0
# The CUDA plugin, where there are nvcc, the runtime and cuBLAS; sets KERNELS_CUDA. cuBLAS and NCCL
# are also looked for in CONSILIUM_CUDA_LIBS (include/ and lib/, as tests/support/fetch-cuda-libs.sh
# lays them out).
set(CONSILIUM_CUDA_LIBS ${CMAKE_BINARY_DIR}/cuda-libs CACHE PATH "Where cuBLAS and NCCL may be found")
set(CONSILIUM_CUDA_ARCHS
    "75-real;80-real;86-real;87-real;88-real;89-real;90-real;100-real;103-real;110-real;120-real;121-real;120-virtual"
    CACHE STRING "GPU architectures the plugin is compiled for")
set(KERNELS_CUDA OFF)

function(kernels_cuda_absent reason)
  if(CONSILIUM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CUDA backend: ${reason}")
  endif()
  message(STATUS "CUDA backend: left out, ${reason}")
endfunction()

if(CONSILIUM_CUDA STREQUAL "OFF")
  message(STATUS "CUDA backend: switched off")
  return()
endif()

find_program(CONSILIUM_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(NOT CONSILIUM_NVCC)
  kernels_cuda_absent("no nvcc on PATH or in /usr/local/cuda/bin")
  return()
endif()
find_path(CUBLAS_INCLUDE_DIR cublas_v2.h
          HINTS ${CONSILIUM_CUDA_LIBS}/include PATHS /usr/local/cuda/include)
find_library(CUBLAS_LIBRARY NAMES cublas
             HINTS ${CONSILIUM_CUDA_LIBS}/lib PATHS /usr/local/cuda/lib64 /usr/local/cuda/lib)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CONSILIUM_CUDA_LIBS}/include PATHS /usr/local/cuda/include)
if(NOT CUBLAS_INCLUDE_DIR OR NOT CUBLAS_LIBRARY)
  kernels_cuda_absent("no cuBLAS (tests/support/fetch-cuda-libs.sh ${CONSILIUM_CUDA_LIBS} fetches it)")
  return()
endif()

set(CMAKE_CUDA_COMPILER ${CONSILIUM_NVCC})
set(CMAKE_CUDA_ARCHITECTURES ${CONSILIUM_CUDA_ARCHS})
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(KERNELS_CUDA ON)
message(STATUS "CUDA backend: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, cuBLAS ${CUBLAS_LIBRARY}, NCCL ${NCCL_INCLUDE_DIR}")

set(KERNELS_CUDA_HOST cuda/cuda_backend.c cuda/memory.c cuda/record.c cuda/nn.c cuda/conv.c cuda/group.c)
if(NCCL_INCLUDE_DIR)
  list(APPEND KERNELS_CUDA_HOST cuda/nccl_group.c cuda/nccl_load.c)
else()
  list(APPEND KERNELS_CUDA_HOST cuda/nccl_none.c)
endif()
add_library(consilium-cuda MODULE cuda/elementwise.cu cuda/reduce.cu cuda/fold.cu cuda/norm.cu
            cuda/window.cu cuda/conv.cu cuda/unary.cu cuda/nd.cu cuda/axis.cu cuda/loss.cu ${KERNELS_CUDA_HOST})
target_include_directories(consilium-cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_include_directories(consilium-cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS}
                           ${CUBLAS_INCLUDE_DIR} $<$<BOOL:${NCCL_INCLUDE_DIR}>:${NCCL_INCLUDE_DIR}>)
target_compile_definitions(consilium-cuda PRIVATE _GNU_SOURCE)
target_compile_options(consilium-cuda PRIVATE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wconversion -Wshadow -Wvla -Wno-sign-conversion>
  $<$<AND:$<COMPILE_LANGUAGE:C>,$<BOOL:${CONSILIUM_WERROR}>>:-Werror>
  # No fused multiply-add: optimisers and the fold then round as the CPU does.
  "$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-Xptxas=--warn-on-spills;-Xfatbin=-compress-all;--threads=2;-Xcompiler=-Wall,-Wextra>"
  "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${CONSILIUM_WERROR}>>:-Werror=all-warnings;-Xcompiler=-Werror>")
set_target_properties(consilium-cuda PROPERTIES
  C_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/consilium
  BUILD_RPATH "${CONSILIUM_CUDA_LIBS}/lib" INSTALL_RPATH "$ORIGIN")
target_link_libraries(consilium-cuda PRIVATE ${CUBLAS_LIBRARY} Threads::Threads m ${CMAKE_DL_LIBS})
target_link_options(consilium-cuda PRIVATE -Wl,--no-undefined -Wl,-z,now)
