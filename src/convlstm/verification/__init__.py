"""Score forecasts by lead time and threshold, with counts and intervals."""

from convlstm.verification.differences import difference_table as difference_table
from convlstm.verification.probabilities import reliability_table as reliability_table
from convlstm.verification.probabilities import score_probabilities as score_probabilities
from convlstm.verification.scorecard import case_sums as case_sums
from convlstm.verification.scorecard import fss_table as fss_table
from convlstm.verification.scorecard import score_forecasts as score_forecasts
from convlstm.verification.scorecard import skill_table as skill_table
from convlstm.verification.spectra import fine_scale_correlation as fine_scale_correlation
from convlstm.verification.spectra import spectrum_tables as spectrum_tables
