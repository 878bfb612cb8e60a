/* SPDX-License-Identifier: Apache-2.0 */
/* no_plugin.c - a shared object that is no press plug-in. */
int no_plugin_at_all;
