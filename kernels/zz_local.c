/* placeholder */
typedef int kern_empty;
