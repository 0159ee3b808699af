/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions of the C library that have a safer twin, made compile errors. CMake includes this file
 * ahead of every C source of the house; nobody includes it by hand.
 */
#ifndef CONSILIUM_KERN_BANNED_H
#define CONSILIUM_KERN_BANNED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERN_BANNED(name) use_of_##name##_is_banned_here

#undef strcpy
#define strcpy(...) KERN_BANNED(strcpy) /* memcpy with a checked length, or snprintf */
#undef strcat
#define strcat(...) KERN_BANNED(strcat)
#undef strncpy
#define strncpy(...) KERN_BANNED(strncpy) /* may not terminate */
#undef strncat
#define strncat(...) KERN_BANNED(strncat)
#undef strtok
#define strtok(...) KERN_BANNED(strtok) /* hidden state */
#undef sprintf
#define sprintf(...) KERN_BANNED(sprintf)
#undef vsprintf
#define vsprintf(...) KERN_BANNED(vsprintf)
#undef gets
#define gets(...) KERN_BANNED(gets)
#undef atoi
#define atoi(...) KERN_BANNED(atoi) /* no errors */
#undef atol
#define atol(...) KERN_BANNED(atol)
#undef atof
#define atof(...) KERN_BANNED(atof)

#endif
